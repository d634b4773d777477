"""vLLM's GPU worker with our model runner."""

from vllm.v1.worker import gpu_model_runner, gpu_worker

from vllm_specflash.compat import ENGINE_NAMES
from vllm_specflash.engine.runner import SpecFlashRunnerMixin
from vllm_specflash.engine.worker import SpecFlashWorkerMixin, replaced, require_engine_names


class SpecFlashGPUModelRunner(SpecFlashRunnerMixin, gpu_model_runner.GPUModelRunner):
    pass


class SpecFlashGPUWorker(SpecFlashWorkerMixin, gpu_worker.Worker):
    def init_device(self) -> None:
        require_engine_names(ENGINE_NAMES)
        # init_device imports the class by name, from this module, when it runs.
        with replaced(gpu_model_runner, "GPUModelRunner", SpecFlashGPUModelRunner):
            super().init_device()
