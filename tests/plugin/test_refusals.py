"""Options, settings of vLLM and targets that SpecFLASH cannot do with are refused in one sentence that says what to do."""

from types import SimpleNamespace

import pytest
import torch
from sentences import one_sentence
from vllm.engine.arg_utils import EngineArgs

from vllm_specflash.config import SpecFlashError, SpecFlashOptions
from vllm_specflash.engine import speculative_config as refusals
from vllm_specflash.engine.target import embed_tokens, lm_head_rows


@pytest.mark.parametrize(
    "given, says",
    [
        ({"metod": 1}, "no option 'metod' for method 'specflash': use only method, model, num_speculative_tokens"),
        ({"num_speculative_tokens": 0}, "num_speculative_tokens is 0: give a whole number from 1 to 63"),
        ({"num_speculative_tokens": 64}, "num_speculative_tokens is 64"),
        ({"num_speculative_tokens": 2.5}, "num_speculative_tokens is 2.5"),
        ({"num_speculative_tokens": True}, "num_speculative_tokens is True"),
        ({"num_speculative_tokens": "4"}, "num_speculative_tokens is '4'"),
        ({"sizing": "widest"}, "sizing is 'widest': give one of 'auto', 'longest'"),
        ({"min_confidence": 1.0}, "min_confidence is 1.0: give a number from 0 up to, not including, 1"),
        ({"min_confidence": -0.1}, "min_confidence is -0.1"),
        ({"min_confidence": float("nan")}, "min_confidence is nan"),
        ({"min_confidence": "high"}, "min_confidence is 'high'"),
        ({"model": 5}, "model is 5: give it as a string"),
        ({"model": ""}, "model is '': give it as a string"),
        ({"revision": 1}, "revision is 1: give it as a string"),
        ({"check_target_name": "no"}, "check_target_name is 'no': give true or false"),
    ],
)
def test_option_out_of_range(given, says):
    with pytest.raises(SpecFlashError) as error:
        SpecFlashOptions.from_user({"method": "specflash", **given})
    assert says in one_sentence(error)


SUPPORTED_MODEL = {
    "is_encoder_decoder": False, "is_hybrid": False, "is_attention_free": False, "use_mla": False, "runner_type": "generate",
}  # fmt: skip
SUPPORTED_PARALLEL = {"pipeline_parallel_size": 1, "tensor_parallel_size": 1, "decode_context_parallel_size": 1}


@pytest.mark.parametrize(
    "engine, model, parallel, says",
    [
        ({}, {}, {"pipeline_parallel_size": 2}, "pipeline parallelism: set pipeline_parallel_size to 1"),
        ({}, {}, {"decode_context_parallel_size": 2}, "decode context parallelism"),
        ({}, {"is_encoder_decoder": True}, {}, "encoder-decoder targets: serve this target without speculation"),
        ({}, {"is_hybrid": True}, {}, "targets with state-space or linear-attention layers"),
        ({}, {"is_attention_free": True}, {}, "targets with state-space or linear-attention layers"),
        ({}, {"use_mla": True}, {}, "targets with multi-head latent attention"),
        ({}, {"runner_type": "pooling"}, {}, "pooling models: leave speculative_config out"),
        ({"kv_cache_dtype": "fp8"}, {}, {}, "a KV cache of type fp8: leave kv_cache_dtype at 'auto'"),
        ({}, {}, {"prefill_context_parallel_size": 2}, "prefill context parallelism: set prefill_context_parallel_size to 1"),
    ],
)
def test_unsupported_combination(engine, model, parallel, says):
    with pytest.raises(SpecFlashError) as error:
        refusals._refuse_unsupported(
            SimpleNamespace(**engine),
            SimpleNamespace(**{**SUPPORTED_MODEL, **model}),
            SimpleNamespace(**{**SUPPORTED_PARALLEL, **parallel}),
        )
    assert f"SpecFLASH does not support {says}" in one_sentence(error)


@pytest.mark.parametrize(
    "engine, model, parallel, says",
    [
        ({"kv_transfer_config": object()}, {}, {}, "KV connectors: leave kv_transfer_config"),
        ({"kv_offloading_size": 4.0}, {}, {}, "KV connectors"),
        ({}, {}, {"enable_batch_sharded_sampling": True}, "batch-sharded sampling: set enable_batch_sharded_sampling to false"),
        ({}, {}, {"use_ubatching": True}, "dual batch overlap"),
        ({}, {"return_sampling_mask": True}, {}, "sampling masks: set return_sampling_mask to false"),
        ({}, {"enable_trace_replay": True}, {}, "trace replay"),
        ({"watermark_config": object()}, {}, {}, "watermarking: leave watermark_config out"),
        ({}, {"is_mm_prefix_lm": True}, {}, "targets that attend to images in both directions"),
    ],
)
def test_unsupported_on_model_runner_v2(engine, model, parallel, says, monkeypatch):
    parts = [
        SimpleNamespace(**engine),
        SimpleNamespace(**{**SUPPORTED_MODEL, **model}),
        SimpleNamespace(**{**SUPPORTED_PARALLEL, **parallel}),
    ]
    refusals._refuse_unsupported(*parts)
    monkeypatch.setattr(refusals, "runs_v2", lambda: True)
    with pytest.raises(SpecFlashError) as error:
        refusals._refuse_unsupported(*parts)
    assert f"SpecFLASH does not support {says}" in one_sentence(error)


@pytest.mark.parametrize("layout", ["LHBNC", "BLHNC", "BLNHC", "BHLNC"])
def test_a_layout_that_the_drafts_pages_cannot_take(text_target, monkeypatch, layout):
    monkeypatch.setenv("VLLM_KV_CACHE_LAYOUT", layout)
    with pytest.raises(SpecFlashError) as error:
        EngineArgs(str(text_target), speculative_config="specflash").create_engine_config()
    assert f"does not support the KV cache layout {layout}: unset VLLM_KV_CACHE_LAYOUT" in one_sentence(error)


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"pipeline_parallel_size": 2}, "does not support pipeline parallelism"),
        ({"tensor_parallel_size": 3}, "does not support tensor parallelism over 3 ranks with a draft of 4 attention heads"),
        ({"worker_cls": "my.Worker"}, "needs its own worker class, not my.Worker: leave worker_cls at 'auto'"),
    ],
)
def test_unsupported_engine_arguments(text_target, arguments, says):
    with pytest.raises(SpecFlashError) as error:
        EngineArgs(str(text_target), speculative_config="specflash", **arguments).create_engine_config()
    assert says in one_sentence(error)


def test_model_runner_v2(text_target, monkeypatch):
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    with pytest.raises(SpecFlashError) as error:
        EngineArgs(str(text_target), speculative_config="specflash").create_engine_config()
    assert "unset VLLM_USE_V2_MODEL_RUNNER" in one_sentence(error)


def test_other_devices(text_target, monkeypatch):
    from vllm_specflash.engine import arguments

    elsewhere = SimpleNamespace(is_cpu=lambda: False, is_cuda_alike=lambda: False, device_name="tpu")
    monkeypatch.setattr(arguments, "current_platform", elsewhere)
    with pytest.raises(SpecFlashError) as error:
        arguments.worker_class("auto")
    assert "does not support tpu devices" in one_sentence(error)


def test_target_without_an_embedding():
    with pytest.raises(SpecFlashError) as error:
        embed_tokens(torch.nn.Module())
    assert "it exposes no token embedding" in one_sentence(error)


def test_target_with_a_quantised_lm_head():
    with pytest.raises(SpecFlashError) as error:
        lm_head_rows(SimpleNamespace(lm_head=None), 10, None, None)
    assert "it needs a plain unquantised weight" in one_sentence(error)


def test_target_that_is_no_language_model_leaves_its_own_error(tmp_path):
    """A wrong target is vLLM's to refuse; the plugin must not get in its way."""
    with pytest.raises(Exception) as error:
        EngineArgs(str(tmp_path / "nothing"), speculative_config="specflash").create_engine_config()
    assert not isinstance(error.value, SpecFlashError)
