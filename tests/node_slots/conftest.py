"""Attention of our backend over one step: all kernels vLLM's and ours where there is a GPU or Triton's interpreter, torch elsewhere.

vLLM turns Triton off in its CPU build. The interpreter's child process (test_interpreter.py) makes it believe otherwise,
before anything else of vLLM is imported.
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")

if INTERPRETED:
    # An empty list of GPUs passes for a machine whose GPUs come later, which vLLM lets have Triton.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import vllm.platforms

    assert vllm.platforms.current_platform.is_cpu()
    vllm.platforms.vllm_version_matches_substr = lambda _: False


def pytest_configure(config):
    config.addinivalue_line("markers", "parent: belongs to the session itself, not to the interpreter's child process")


def pytest_collection_modifyitems(config, items):
    dropped = [item for item in items if INTERPRETED and item.get_closest_marker("parent")]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


@pytest.fixture
def device():
    return DEVICE


@pytest.fixture
def kernels(monkeypatch):
    """Which kernels attend and compact."""
    from vllm.v1.attention.backends import triton_attn

    from vllm_specflash.engine import node_slots

    if INTERPRETED:
        from vllm_specflash.triton_kernels.kv_compact import kv_compact_triton
        from vllm_specflash.triton_kernels.tree_attention import tree_attention_triton

        monkeypatch.setattr(node_slots, "tree_attention", tree_attention_triton)
        monkeypatch.setattr(node_slots, "kv_compact", kv_compact_triton)
        # vLLM asks it for the size of a tile.
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    elif DEVICE.type == "cpu":
        import triton_on_cpu

        monkeypatch.setattr(triton_attn, "unified_attention", triton_on_cpu.causal_attention)
        monkeypatch.setattr(triton_attn, "triton_reshape_and_cache_flash", triton_on_cpu.store)


@pytest.fixture(scope="session")
def vllm_config(tmp_path_factory):
    from tiny_models import tiny_llama
    from vllm import EngineArgs

    target = tiny_llama(tmp_path_factory.mktemp("target") / "tiny-llama")
    return EngineArgs(str(target), dtype="float32", enforce_eager=True, max_model_len=512).create_engine_config()
