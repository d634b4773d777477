"""What our V1 workers add to vLLM's: they build our model runner, and answer for its counters."""

from vllm_specflash.engine.metrics import WorkerMetrics
from vllm_specflash.engine.v1.costs import known_step_cost, measured_step_cost
from vllm_specflash.engine.v1.spare import choose_spare_blocks, one_group


class SpecFlashWorkerMixin:
    """Goes before vLLM's CPUWorker in the bases."""

    # Whether side paths of trees are verified in spare blocks (engine/v1/attention.py).
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
        self.model_runner.drafter.warm_up()
        if self.sizes_drafts:
            self.model_runner.drafter.sizing.step_cost = known_step_cost(self.model_runner)
        # Of several workers that share a target, one speaks for all.
        if self.is_driver_worker:
            self.model_runner.metrics = WorkerMetrics(self.vllm_config)
        return result

    @property
    def sizes_drafts(self) -> bool:
        """Whether drafts are as long as what they cost allows."""
        return self.vllm_config.speculative_config.specflash.sizing == "auto"

    def measure_step_cost(self) -> None:
        """Measure anew what drafts are sized by: a benchmark has found the machine quiet."""
        if self.sizes_drafts:
            self.model_runner.drafter.sizing.step_cost = measured_step_cost(self.model_runner)

    def specflash_stats(self) -> dict[str, float]:
        """Counters of the draft side since the last call (engine/stats.py)."""
        return self.model_runner.drafter.stats.take()
