"""Measures what a schedule of draft lengths by batch size is made from, once the engine is warm."""

from vllm.logger import init_logger

from vllm_specflash.engine.stats import seconds
from vllm_specflash.tree.cost import SIZES, StepCost
from vllm_specflash.tree.schedule import batch_schedule

logger = init_logger("vllm.specflash")

# Beyond the sizes that trees are sized by on CPUs: batches of GPUs.
MORE_SIZES = (256, 512, 1024, 2048)
REPEATS = 3


def measured_schedule(runner) -> list[tuple[int, int, int]]:
    """vLLM's num_speculative_tokens_per_batch_size for one of our V2 model runners; all ranks of a target ask together."""
    speculator = runner.speculator
    most = min(runner.max_num_tokens, runner.max_num_reqs * speculator.width)
    sizes = [size for size in (*SIZES, *MORE_SIZES) if size <= most]
    for size in sizes:
        seconds(lambda: runner._dummy_run(size))
    # What disturbs a measurement only ever adds to it.
    timings = {size: min(seconds(lambda: runner._dummy_run(size)) for _ in range(REPEATS)) for size in sizes}
    draft = min(seconds(lambda: speculator.core.measure(speculator.width, 1)) for _ in range(REPEATS))
    cost = StepCost.of(timings)
    schedule = batch_schedule(cost, draft, speculator.num_speculative_tokens, runner.max_num_reqs)
    logger.info("SpecFLASH drafts by batch size (first, last, tokens): %s", schedule)
    return speculator.draft.ranks.agree(schedule)
