"""What the doctor looks with, each part by itself: the machine, the hub, files, and a step of the draft."""

import struct
import subprocess
import sys

import pytest
import torch

from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft
from vllm_specflash.lab.bench.doctor.trial import draft_step


def test_the_machine_is_named_where_vllm_does_not_import():
    """A broken vLLM is told on the line of vLLM, and not on the machine's."""
    code = "import sys; sys.modules['vllm'] = None; from vllm_specflash.lab.bench.device import device; print(device()['cpu'])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.strip(), run.stderr[-2000:]


def test_a_silent_hub_is_asked_once(monkeypatch):
    from huggingface_hub import HfApi, constants

    from vllm_specflash.lab.bench.doctor.hub import unreachable

    asked = []

    def silent(self, repo, **_):
        asked.append(repo)
        raise OSError("Name or service not known")

    monkeypatch.setattr(HfApi, "model_info", silent)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    says = "there is no folder nobody/none here, and nothing of it in the hub's cache (the hub cannot be reached: Name or service not known)"
    assert unreachable("nobody/none") == says
    assert asked == ["nobody/none"]


def test_a_cached_model_needs_no_hub(monkeypatch):
    import huggingface_hub

    from vllm_specflash.lab.bench.doctor.hub import unreachable

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, repo, **_: (_ for _ in ()).throw(OSError("no route")))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file, revision: f"/cache/{file}")
    assert unreachable("nobody/some") is None
    # So that nobody else asks, and waits for, a hub that is silent.
    assert huggingface_hub.constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    "shape",
    [
        {}, {"compressor": "placed", "visual_features": "both"}, {"compressor": "placed", "visual_features": "states"}, {"target_layers": [1, 2]},
        {"num_latents": 0}, {"variant": "plain"}, {"transition_rank": 4, "selector_width": 8},
    ],
    ids=str,
)  # fmt: skip
def test_a_step_of_the_draft_has_one_state_per_token(shape):
    small = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "semi_ar_width": 5}
    network = SpecFlashDraft(SpecFlashConfig(**small, **shape))
    states, seconds = draft_step(network)
    assert states.shape == (5, 32) and torch.isfinite(states).all() and seconds > 0


def test_a_header_that_is_longer_than_its_file(tmp_path):
    from vllm_specflash.lab.bench.doctor.checkpoints import damage

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 10**15) + b"{}")
    assert "was cut short" in damage(tmp_path)
