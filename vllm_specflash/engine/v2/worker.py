"""vLLM's GPU worker with our V2 model runner; engine/v2/cpu_worker.py does the same for CPUs that Triton has a backend for."""

from vllm.v1.worker import gpu_worker
from vllm.v1.worker.gpu import model_runner

from vllm_specflash import compat
from vllm_specflash.compat import V2_NAMES
from vllm_specflash.config import SpecFlashError
from vllm_specflash.engine.hooks import register_tree_attention, replaced, require_engine_names
from vllm_specflash.engine.metrics import WorkerMetrics
from vllm_specflash.engine.v2.runner import SpecFlashRunnerMixin
from vllm_specflash.engine.v2.schedule import known_schedule


class SpecFlashWorkerMixin:
    """Goes before vLLM's worker in the bases."""

    def require_v2(self, *names: compat.Name) -> None:
        """Called before the device is set up, with what this kind of worker leans on besides.

        Raises:
            SpecFlashError: this vLLM lacks something, or runs this engine on its older model runner.
        """
        require_engine_names(V2_NAMES + names)
        if not self.use_v2_model_runner:
            raise SpecFlashError(
                "SpecFLASH needs vLLM's model runner V2 on this machine, and this vLLM runs the target on V1: unset "
                "VLLM_USE_V2_MODEL_RUNNER, or use a newer vLLM."
            )

    def compile_or_warm_up_model(self):
        result = super().compile_or_warm_up_model()
        # Of several workers that share a target, one speaks for all.
        if self.is_driver_worker:
            self.model_runner.metrics = WorkerMetrics(self.vllm_config)
        return result

    def specflash_schedule(self) -> list[tuple[int, int, int]] | None:
        """How many tokens to draft by batch size; None where vLLM shares a step's rows itself, or the user wants the most."""
        config = self.vllm_config.speculative_config
        if config.specflash.sizing != "auto" or getattr(config, "enable_adaptive_verification", False):
            return None
        return known_schedule(self.model_runner)

    def specflash_stats(self) -> dict[str, float]:
        """Counters of the draft side since the last call (engine/stats.py)."""
        speculator = self.model_runner.speculator
        speculator.counters.fill(speculator.stats, wait=True)
        return speculator.stats.take()


class SpecFlashGPUModelRunner(SpecFlashRunnerMixin, model_runner.GPUModelRunner):
    pass


class SpecFlashGPUWorker(SpecFlashWorkerMixin, gpu_worker.Worker):
    def sleep(self, level: int = 1) -> None:
        if level > 1:
            # vLLM keeps buffers of the target, and loads its weights again; nobody would the draft's.
            raise SpecFlashError(f"A SpecFLASH draft would not survive sleep of level {level}: use level 1.")
        super().sleep(level)

    def init_device(self) -> None:
        self.require_v2()
        if self.vllm_config.speculative_config.trees:
            register_tree_attention()
        # init_device imports the class by name when it runs.
        with replaced(model_runner, "GPUModelRunner", SpecFlashGPUModelRunner):
            super().init_device()
