"""vLLM's CPU worker with our V2 model runner, for CPUs that Triton has a backend for."""

# Must come first: vLLM's module of that name says so, and imports what the others need.
from vllm.v1.worker import cpu_worker  # isort: skip

from contextlib import contextmanager

from vllm.v1.attention import selector
from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend
from vllm.v1.worker.cpu import model_runner

from vllm_specflash.compat import V2_CPU_NAMES
from vllm_specflash.config import TREE_BACKEND
from vllm_specflash.engine.hooks import replaced
from vllm_specflash.engine.v2.runner import SpecFlashRunnerMixin
from vllm_specflash.engine.v2.worker import SpecFlashWorkerMixin


@contextmanager
def tree_attention_for_cpus():
    """Layers built inside attend by our backend: on CPUs vLLM lets nobody choose, and asks for CPU_ATTN by name."""
    register_backend(AttentionBackendEnum.CPU_ATTN, TREE_BACKEND)
    selector._cached_get_attn_backend.cache_clear()
    try:
        yield
    finally:
        AttentionBackendEnum.CPU_ATTN.clear_override()
        selector._cached_get_attn_backend.cache_clear()


class SpecFlashCPUModelRunner(SpecFlashRunnerMixin, model_runner.CPUModelRunner):
    def load_model(self, *args, **kwargs):
        if not self.speculative_config.trees:
            return super().load_model(*args, **kwargs)
        with tree_attention_for_cpus():
            return super().load_model(*args, **kwargs)


class SpecFlashCPUWorker(SpecFlashWorkerMixin, cpu_worker.CPUWorker):
    def init_device(self) -> None:
        self.require_v2(*V2_CPU_NAMES)
        with replaced(model_runner, "CPUModelRunner", SpecFlashCPUModelRunner):
            super().init_device()
