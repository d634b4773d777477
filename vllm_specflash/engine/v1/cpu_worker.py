"""vLLM's CPU worker with our model runner."""

# Must come first: vLLM's module of that name says so, and imports what the others need.
from vllm.v1.worker import cpu_worker  # isort: skip

from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from vllm_specflash import compat
from vllm_specflash.compat import CPU_NAMES, CPU_TREE_NAMES, ENGINE_NAMES, TREE_NAMES
from vllm_specflash.engine.hooks import replaced, require_engine_names
from vllm_specflash.engine.v1.runner import SpecFlashRunnerMixin
from vllm_specflash.engine.v1.worker import SpecFlashWorkerMixin


class SpecFlashCPUModelRunner(SpecFlashRunnerMixin, CPUModelRunner):
    pass


class SpecFlashCPUWorker(SpecFlashWorkerMixin, cpu_worker.CPUWorker):
    def init_device(self) -> None:
        require_engine_names(ENGINE_NAMES + CPU_NAMES)
        asked = self.vllm_config.speculative_config.trees
        self.runs_trees = asked and compat.problem(TREE_NAMES + CPU_TREE_NAMES) is None
        with replaced(cpu_worker, "CPUModelRunner", SpecFlashCPUModelRunner):
            super().init_device()
