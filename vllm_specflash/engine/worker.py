"""What our workers add to vLLM's: they build our model runner, and answer for its counters."""

from contextlib import contextmanager

from vllm_specflash import compat
from vllm_specflash.config import SpecFlashError
from vllm_specflash.engine.metrics import WorkerMetrics
from vllm_specflash.engine.spare import choose_spare_blocks, one_group


class SpecFlashWorkerMixin:
    """Goes before CPUWorker or the GPU Worker in the bases."""

    # Whether side paths of trees are verified in spare blocks (engine/attention.py).
    runs_trees = False

    def determine_available_memory(self) -> int:
        """vLLM's, less what the blocks for side paths take."""
        available = super().determine_available_memory()
        specs = self.model_runner.get_kv_cache_spec()
        if self.runs_trees and one_group(specs):
            block_bytes = sum(spec.page_size_bytes for spec in specs.values())
            # The same everywhere: they decide which trees there is room for.
            spare = self.model_runner.drafter.ranks.agree(choose_spare_blocks(available // block_bytes))
            self.model_runner.num_spare_blocks = spare
            available -= spare * block_bytes
        return available

    def compile_or_warm_up_model(self):
        result = super().compile_or_warm_up_model()
        if self.vllm_config.speculative_config.specflash.sizing == "auto":
            self.model_runner.measure_step_cost()
        # Of several workers that share a target, one speaks for all.
        if self.is_driver_worker:
            self.model_runner.metrics = WorkerMetrics(self.vllm_config)
        return result

    def specflash_stats(self) -> dict[str, float]:
        """Counters of the draft side since the last call (engine/stats.py)."""
        return self.model_runner.drafter.stats.take()


@contextmanager
def replaced(module, name: str, value):
    """`module.name` is `value` inside: vLLM's init_device names the runner class that it builds."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


def require_engine_names(names: tuple[compat.Name, ...]) -> None:
    """Refuse to start on a vLLM that lacks something the runner needs.

    Raises:
        SpecFlashError: which name.
    """
    fault = compat.problem(names)
    if fault:
        raise SpecFlashError(fault)
