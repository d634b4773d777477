"""Model Runner V2 on a CPU without a Triton backend: stock vLLM believes there is one, and Triton's interpreter runs all kernels.

`use_interpreter` must come before vLLM and Triton are imported (tests/v2/conftest.py). Everything else is the real engine.
"""

import importlib
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import torch

STUB = Path(__file__).parent / "triton_stub"
SLOW = ("tree_attention", "draft_attention", "best_tree")


def use_interpreter() -> None:
    """This process and its children run on V2; on a GPU they do so by themselves."""
    if torch.cuda.is_available():
        return
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(STUB), *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.path.insert(0, str(STUB))


def keep_async_scheduling(monkeypatch) -> None:
    """vLLM's CPU platform switches asynchronous scheduling off at the very end; here it stays as it was decided before."""
    from vllm.platforms.cpu import CpuPlatform

    check = CpuPlatform.check_and_update_config.__func__

    def checked(cls, vllm_config):
        decided = vllm_config.scheduler_config.async_scheduling
        check(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = decided

    monkeypatch.setattr(CpuPlatform, "check_and_update_config", classmethod(checked))


def without_sorting_kernel(monkeypatch) -> None:
    """vLLM's top-k and top-p kernel does not run in the interpreter; its torch path does."""
    from vllm.v1.sample.ops import topk_topp_sampler

    monkeypatch.setattr(topk_topp_sampler, "HAS_TRITON", False)


def torch_paths(monkeypatch) -> None:
    """Most of our operations' time is spent in these; they take their torch path, which tests/triton_kernels compares with the
    kernel. tests/v2/test_kernels.py runs the kernels. Dry runs on torch's meta device have no values for a torch path.
    """
    for operation in SLOW:
        module = importlib.import_module(f"vllm_specflash.triton_kernels.{operation}")
        monkeypatch.setattr(module, "launches", lambda tensor: tensor.is_meta)


def take_integer_masks(monkeypatch) -> None:
    """As compiled kernels do; vLLM's kernel for grammars stores by one."""
    from triton.runtime.interpreter import InterpreterBuilder

    store = InterpreterBuilder.create_masked_store

    def masked(self, pointers, value, mask, cache_policy=None, *rest):
        mask.data = mask.data.astype(bool)
        return store(self, pointers, value, mask, cache_policy, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_masked_store", masked)


def torch_prompts(monkeypatch) -> None:
    """The same for vLLM's own attention over the rows of prompts; the kernel has tests of its own there."""
    from vllm.v1.attention.backends import triton_attn

    def attended(*, q, k, v, out, cu_seqlens_q, seqused_k, softmax_scale, block_table, **_):
        bounds = cu_seqlens_q.tolist()
        for request, (begin, end) in enumerate(zip(bounds, bounds[1:])):
            length = int(seqused_k[request])
            keys, values = (cache[block_table[request].long()].flatten(0, 1)[:length].transpose(0, 1) for cache in (k, v))
            seen = torch.ones(end - begin, length, dtype=torch.bool).tril(length - (end - begin))
            out[begin:end] = torch.nn.functional.scaled_dot_product_attention(
                q[begin:end].transpose(0, 1), keys, values, seen, scale=softmax_scale, enable_gqa=True
            ).transpose(0, 1)

    monkeypatch.setattr(triton_attn, "unified_attention", attended)


@contextmanager
def engine(target: Path, draft: Path | None = None, draft_options: dict | None = None, **overrides):
    """engines.engine, on Model Runner V2 and with asynchronous scheduling."""
    import engines

    options = {"num_speculative_tokens": 7, **(draft_options or {})}
    with engines.engine(target, draft, options, **{"block_size": 32, **overrides}) as llm:
        config = llm.llm_engine.vllm_config
        assert config.use_v2_model_runner and config.scheduler_config.async_scheduling
        speculator = None
        if draft is not None and overrides.get("tensor_parallel_size", 1) == 1:
            speculator = engines.runner(llm).speculator
            assert speculator.runs_trees == (options.get("tree") is not False)
        yield llm
        if speculator is not None:
            assert speculator.stats.errors == 0


def metric(llm, name: str) -> int:
    """Of vLLM's own, since the engine started."""
    return sum(m.value for m in llm.get_metrics() if m.name == f"vllm:{name}")


def misrank(monkeypatch) -> None:
    """Drafts hold their first choice for the second and never learn better: what the target says lies on side paths."""
    from vllm_specflash.draft import core
    from vllm_specflash.tree.calibration import DeviceCalibration

    joined = core.joined

    def swapped(rounds):
        candidates = joined(rounds)
        order = torch.arange(candidates.tokens.shape[2])
        order[:2] = torch.tensor([1, 0])
        first, following = candidates.first.clone(), candidates.following.clone()
        for table in (first, following):
            # The chances stay with their places, close enough for both to be drafted.
            table[..., 0], table[..., 1], table[..., 2:] = 0.5, 0.4, 0.001
        return candidates._replace(tokens=candidates.tokens[:, :, order], first=first, following=following)

    monkeypatch.setattr(core, "joined", swapped)
    monkeypatch.setattr(DeviceCalibration, "observe", lambda *_: None)


def unpinned_pictures(monkeypatch) -> None:
    """vLLM 0.26 pins the memory of pictures wherever it runs; a machine without a GPU has none to pin."""
    from vllm.multimodal.inputs import BaseMultiModalField

    reduce = BaseMultiModalField.reduce_data
    monkeypatch.setattr(
        BaseMultiModalField, "reduce_data", lambda self, elems, *, device=None, pin_memory=False: reduce(self, elems, device=device)
    )
