"""A draft that is not there, is damaged or is another target's is refused in one sentence that says what to do."""

import json
import shutil

import pytest
import torch
from drafts import draft_for
from sentences import one_sentence
from tiny_models import tiny_llama
from transformers import StableLmConfig
from vllm.engine.arg_utils import EngineArgs

from vllm_specflash.config import SpecFlashError, SpecFlashOptions, find_draft
from vllm_specflash.engine.draft_model import load_draft
from vllm_specflash.engine.speculative_config import load_draft_config
from vllm_specflash.engine.target_layers import hand_out


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
        ("~nobody-here/draft", "the folder does not exist"),
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
        load_draft_config(tmp_path)
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


def test_draft_whose_weights_were_cut_short(text_target, tmp_path):
    draft = draft_for(text_target, tmp_path / "draft")
    weights = draft / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SpecFlashError) as error:
        load_draft(draft, torch.float32)
    assert f"in {draft} could not be read" in one_sentence(error)


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
