"""vLLM's GPU worker with our model runner."""

from vllm.logger import init_logger
from vllm.v1.worker import gpu_model_runner, gpu_worker

from vllm_specflash import compat, plugin
from vllm_specflash.compat import CUDA_TREE_NAMES, ENGINE_NAMES, TREE_NAMES
from vllm_specflash.engine.runner import SpecFlashRunnerMixin
from vllm_specflash.engine.speculative_config import runs_trees
from vllm_specflash.engine.worker import SpecFlashWorkerMixin, replaced, require_engine_names

logger = init_logger("vllm.specflash")


class SpecFlashGPUModelRunner(SpecFlashRunnerMixin, gpu_model_runner.GPUModelRunner):
    def initialize_kv_cache(self, *args, **kwargs):
        super().initialize_kv_cache(*args, **kwargs)
        if not runs_trees(self.speculative_config.specflash.tree):
            return
        fault = compat.problem(TREE_NAMES + CUDA_TREE_NAMES)
        if fault:
            logger.warning_once("SpecFLASH drafts chains only: its trees lack something of this vLLM. (%s)", fault)
            return
        # Imported here: it is made of what was just looked for.
        from vllm_specflash.engine.tree_backend import set_up_trees

        set_up_trees(self)


class SpecFlashGPUWorker(SpecFlashWorkerMixin, gpu_worker.Worker):
    def init_device(self) -> None:
        require_engine_names(ENGINE_NAMES)
        if runs_trees(self.vllm_config.speculative_config.specflash.tree):
            plugin.register_tree_attention()
        # init_device imports the class by name, from this module, when it runs.
        with replaced(gpu_model_runner, "GPUModelRunner", SpecFlashGPUModelRunner):
            super().init_device()
