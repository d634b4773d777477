"""Whatever a user can get wrong is answered by one sentence that says what to do."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from drafts import draft_for
from tiny_models import tiny_llama
from transformers import StableLmConfig
from vllm.engine.arg_utils import EngineArgs

from vllm_specflash.config import SpecFlashError, SpecFlashOptions, find_draft
from vllm_specflash.engine import speculative_config as refusals
from vllm_specflash.engine.draft_model import load_draft
from vllm_specflash.engine.target import embed_tokens, lm_head_rows
from vllm_specflash.engine.target_layers import hand_out


def one_sentence(error) -> str:
    """The message of a refusal, checked to be one line and one sentence."""
    message = str(error.value)
    # A full stop ends a sentence only before a space; versions, paths and names keep theirs.
    assert message.endswith(".") and "\n" not in message and not re.search(r"\. [A-Z]", message), message
    return message


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


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "weightless").mkdir()
    (tmp_path / "weightless" / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    "model, says",
    [
        ("{folder}/nowhere", "the folder does not exist; correct \"model\""),
        ("~/no/such/folder", "the folder does not exist"),
        ("{folder}/empty", "empty has no config.json; pass as \"model\" the folder that `specflash train` wrote"),
        ("{folder}/weightless", "weightless has no model.safetensors: copy its weights there"),
        ("nobody/no-such-draft", "nobody/no-such-draft could not be read from the hub"),
        (None, "empty/specflash has no config.json; name a draft with {\"method\": \"specflash\", \"model\": "),
    ],
)
def test_no_draft(folder, model, says):
    options = SpecFlashOptions(model=model and model.format(folder=folder))
    with pytest.raises(SpecFlashError) as error:
        find_draft(options, target=str(folder / "empty"))
    assert says in one_sentence(error)


def test_no_draft_beside_a_target_on_the_hub():
    with pytest.raises(SpecFlashError) as error:
        find_draft(SpecFlashOptions(), target="nobody/no-such-target")
    assert "nobody/no-such-target could not be read from the hub" in one_sentence(error)
    assert "or train one with `specflash train`" in str(error.value)


@pytest.mark.parametrize(
    "text, says",
    [
        ('{"model_type": "llama"}', "holds a model of type 'llama', not a SpecFLASH draft"),
        ("{}", "holds a model of type None"),
        ("not json", "config.json in"),
        ('{"model_type": "specflash", "head_dim": 33}', "head_dim must be even"),
        ('{"model_type": "specflash", "hidden_size": "wide"}', "hidden_size"),
        ('{"model_type": "specflash", "num_latents": -1}', "num_latents must not be negative"),
    ],
)
def test_unusable_draft_config(tmp_path, text, says):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SpecFlashError) as error:
        refusals.load_draft_config(tmp_path)
    assert says in one_sentence(error)


@pytest.fixture(scope="module")
def misfit(text_target, tmp_path_factory):
    """Make a draft that differs from the target's own in one field of its config."""

    def make(**fields):
        folder = tmp_path_factory.mktemp("drafts") / "misfit"
        shutil.copytree(text_target / "specflash", folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))
        return folder

    return make


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"hidden_size": 64}, "is for another target: its hidden size is 64, that of"),
        ({"target_vocab_size": 1000}, "its vocabulary is 1000"),
        ({"num_key_value_heads": 4}, "its number of KV heads is 4"),
        ({"head_dim": 64}, "its head size is 64"),
        ({"target_name": "org/other-7b"}, "was trained for org/other-7b, not for"),
    ],
)
def test_draft_for_another_target(text_target, misfit, fields, says):
    options = {"method": "specflash", "model": str(misfit(**fields))}
    with pytest.raises(SpecFlashError) as error:
        EngineArgs(str(text_target), speculative_config=options).create_engine_config()
    assert says in one_sentence(error)


def test_another_name_can_be_accepted(text_target, misfit):
    options = {"method": "specflash", "model": str(misfit(target_name="org/other-7b")), "check_target_name": False}
    config = EngineArgs(str(text_target), speculative_config=options, enforce_eager=True).create_engine_config()
    assert config.speculative_config.specflash.check_target_name is False


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


def test_draft_whose_weights_were_cut_short(text_target, tmp_path):
    draft = draft_for(text_target, tmp_path / "draft")
    weights = draft / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SpecFlashError) as error:
        load_draft(draft, torch.float32)
    assert f"in {draft} could not be read" in one_sentence(error)


def test_target_that_is_no_language_model_leaves_its_own_error(tmp_path):
    """A wrong target is vLLM's to refuse; the plugin must not get in its way."""
    with pytest.raises(Exception) as error:
        EngineArgs(str(tmp_path / "nothing"), speculative_config="specflash").create_engine_config()
    assert not isinstance(error.value, SpecFlashError)


def test_draft_of_the_wrong_family_beside_the_target(tmp_path):
    """A whole language model in place of a draft is named as what it is."""
    target = tiny_llama(tmp_path / "tiny")
    tiny_llama(target / "specflash")
    with pytest.raises(SpecFlashError) as error:
        EngineArgs(str(target), speculative_config="specflash").create_engine_config()
    assert "holds a model of type 'llama', not a SpecFLASH draft" in one_sentence(error)
    shutil.rmtree(target / "specflash")
    draft_for(target, target / "specflash")
    EngineArgs(str(target), speculative_config="specflash", enforce_eager=True).create_engine_config()


def test_layers_that_the_target_does_not_hand_out(tmp_path):
    """Before weights load: there are none."""
    shape = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    target = tmp_path / "silent"
    StableLmConfig(vocab_size=100, architectures=["StableLmForCausalLM"], **shape).save_pretrained(target)
    options = {"method": "specflash", "model": str(draft_for(target, tmp_path / "draft", target_layers=[1]))}
    with pytest.raises(SpecFlashError) as error:
        EngineArgs(str(target), speculative_config=options).create_engine_config()
    assert "vLLM's StablelmForCausalLM does not hand these out: train one without" in one_sentence(error)


@pytest.mark.parametrize("layers", [[1, 2], [-1]], ids=str)
def test_layers_that_the_target_does_not_have(text_target, misfit, layers):
    """Behind the last one training's states are normed, and vLLM's are not."""
    options = {"method": "specflash", "model": str(misfit(target_layers=layers))}
    with pytest.raises(SpecFlashError) as error:
        EngineArgs(str(text_target), speculative_config=options).create_engine_config()
    assert f"the target's layer {layers[-1]}, and {text_target} has layers 0 to 1" in one_sentence(error)


def test_a_language_model_inside_that_does_not_hand_layers_out():
    with pytest.raises(SpecFlashError) as error:
        hand_out(torch.nn.Module(), [1], "folder")
    assert "The draft in folder wants the states of several layers" in one_sentence(error)


def test_what_vllm_compiles_depends_on_the_layers(text_target, misfit):
    """Or a forward that it compiled and kept for another draft would tell this one what that wanted."""

    def compiled_under(**fields):
        options = {"method": "specflash", "model": str(misfit(**fields))}
        args = EngineArgs(str(text_target), speculative_config=options, enforce_eager=True)
        return args.create_engine_config().compute_hash()

    keys = [compiled_under(), compiled_under(target_layers=[0]), compiled_under(target_layers=[1])]
    assert len(set(keys)) == 3
    assert compiled_under(target_layers=[1]) == keys[2] and compiled_under(num_latents=2) == keys[0]
