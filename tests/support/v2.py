"""Model Runner V2 on a CPU without a Triton backend: stock vLLM believes there is one, and Triton's interpreter runs all kernels.

`use_interpreter` must come before vLLM and Triton are imported (tests/v2/conftest.py). Everything else is the real engine.
"""

import os
import sys
from pathlib import Path

STUB = Path(__file__).parent / "triton_stub"


def use_interpreter() -> None:
    """This process and its children run on V2."""
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
