"""What vLLM refuses with a draft as without, in its own words."""

import pytest
from vllm import LLM
from vllm.engine.arg_utils import EngineArgs


def test_lora_with_drafts_that_do_not_fit_into_a_step(text_target):
    arguments = {"speculative_config": "specflash", "enable_lora": True, "max_num_batched_tokens": 512}
    says = "Consider increasing max_num_batched_tokens or decreasing num_speculative_tokens"
    with pytest.raises(ValueError, match=says):
        EngineArgs(str(text_target), **arguments, max_num_seqs=31).create_engine_config()
    # Trees of 16 tokens and their roots: 30 of them fit.
    config = EngineArgs(str(text_target), **arguments, max_num_seqs=30).create_engine_config()
    assert config.lora_config is not None and config.speculative_config.num_speculative_tokens == 16


def test_data_parallelism_offline(text_target, monkeypatch):
    with pytest.raises(ValueError, match=r"LLM\(data_parallel_size=2\) is not supported for single-process usage"):
        LLM(str(text_target), speculative_config="specflash", data_parallel_size=2)
    for name, value in (("SIZE", 2), ("RANK", 0), ("RANK_LOCAL", 0)):
        monkeypatch.setenv(f"VLLM_DP_{name}", str(value))
    with pytest.raises(ValueError, match="Offline data parallel mode is not supported/useful for dense models"):
        LLM(str(text_target), speculative_config="specflash")
