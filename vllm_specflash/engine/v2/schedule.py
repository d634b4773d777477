"""A schedule of draft lengths by batch size, from what is measured once the engine is warm."""

import numpy as np
from vllm.logger import init_logger

from vllm_specflash.engine.stats import seconds
from vllm_specflash.engine.step_costs import StepCosts
from vllm_specflash.tree.cost import SIZES, StepCost
from vllm_specflash.tree.schedule import batch_schedule

logger = init_logger("vllm.specflash")

# Beyond the sizes that trees are sized by on CPUs: batches of GPUs.
MORE_SIZES = (256, 512, 1024, 2048)
REPEATS = 3


def known_schedule(runner) -> list[tuple[int, int, int]]:
    """vLLM's num_speculative_tokens_per_batch_size for one of our V2 model runners, by what an earlier start measured or by what is
    measured now; all ranks of a target ask together."""
    ranks, costs = runner.speculator.draft.ranks, StepCosts(runner.vllm_config)
    most = min(runner.max_num_tokens, runner.max_num_reqs * runner.speculator.width)
    sizes = [size for size in (*SIZES, *MORE_SIZES) if size <= most]
    # Whether or not they are timed: no request is the first of its size.
    for size in sizes:
        runner._dummy_run(size)
    _draft(runner)
    kept = ranks.agree(costs.read())
    if kept is None:
        kept = ranks.agree(_measured(runner, sizes))
        if ranks.leads:
            costs.write(kept)
    cost = StepCost(np.array(kept["tokens"]), np.array(kept["seconds"]))
    schedule = batch_schedule(cost, kept["draft_seconds"], runner.speculator.num_speculative_tokens, runner.max_num_reqs)
    logger.info("SpecFLASH drafts by batch size (first, last, tokens): %s", schedule)
    return schedule


def _draft(runner) -> None:
    """The work of drafting for one request."""
    runner.speculator.core.measure(runner.speculator.width, 1)


def _measured(runner, sizes: list[int]) -> dict:
    """What StepCosts keeps, of a runner that has run all of that before."""
    # What disturbs a measurement only ever adds to it.
    timings = {size: min(seconds(lambda: runner._dummy_run(size)) for _ in range(REPEATS)) for size in sizes}
    draft = min(seconds(lambda: _draft(runner)) for _ in range(REPEATS))
    return {"tokens": sizes, "seconds": StepCost.of(timings).seconds.tolist(), "draft_seconds": draft}
