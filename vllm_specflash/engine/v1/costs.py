"""What drafts are sized by: seconds of a step by the tokens in its batch, measured once the engine is warm."""

import time

import numpy as np
from vllm.logger import init_logger

from vllm_specflash.engine.stats import seconds
from vllm_specflash.engine.step_costs import StepCosts
from vllm_specflash.engine.v1.greedy import greedy_tokens
from vllm_specflash.tree.cost import SIZES, StepCost

logger = init_logger("vllm.specflash")

# Each size of batch is timed this often, unless that takes longer than so many seconds; but twice at least.
MOST_ROUNDS, MEASURING_SECONDS = 5, 4.0


def known_step_cost(runner) -> StepCost | None:
    """As an earlier start measured it; measured now where none did. All ranks of a target ask together; None but on the one that leads."""
    ranks = runner.drafter.ranks
    # What each engine of data parallelism has kept differs, and with it what would be run.
    kept = ranks.agree(StepCosts(runner.vllm_config).read() if _alone(runner) else None)
    if kept is None:
        return measured_step_cost(runner)
    # What measuring does besides: no request is the first of its size.
    for size in kept["tokens"]:
        _step(runner, size)
    cost = StepCost(np.array(kept["tokens"]), np.array(kept["seconds"]), kept["side_path_seconds"])
    logger.info("SpecFLASH sizes drafts by steps that an earlier start measured: %s", cost)
    return cost if ranks.leads else None


def measured_step_cost(runner) -> StepCost | None:
    """The same measured now, for later starts too."""
    sizes = [size for size in SIZES if size <= runner.max_num_tokens]
    for size in sizes:
        _step(runner, size)
    began = time.perf_counter()
    # Round after round, so that what disturbs one measurement of a size is gone at the next.
    timings = dict.fromkeys(sizes, np.inf)
    for rounds in range(MOST_ROUNDS):
        late = time.perf_counter() - began > MEASURING_SECONDS
        # A target's ranks only ever run together.
        if runner.drafter.ranks.agree(_alone(runner) and rounds >= 2 and late):
            break
        timings = {size: min(timings[size], seconds(lambda: _step(runner, size))) for size in sizes}
    if not runner.drafter.ranks.leads:
        return None
    side_path = runner.side_paths.side_path_seconds() if runner.side_paths is not None else 0.0
    cost = StepCost.of(timings, side_path)
    logger.info("SpecFLASH measured steps: %s", cost)
    StepCosts(runner.vllm_config).write(
        {"tokens": sizes, "seconds": cost.seconds.tolist(), "side_path_seconds": cost.side_path_seconds}
    )
    return cost


def _alone(runner) -> bool:
    """Not beside engines of data parallelism: those that share experts run a step together, and agree on nothing but that."""
    return runner.vllm_config.parallel_config.data_parallel_size == 1


def _step(runner, num_tokens: int) -> None:
    """The target's forward and lm_head over so many tokens."""
    hidden_states, _ = runner._dummy_run(num_tokens)
    # Where LoRA is enabled, lm_head wants to know whose adapter each of its rows has.
    with runner.maybe_select_dummy_loras(runner.lora_config, np.ones(num_tokens, dtype=np.int32)):
        greedy_tokens(runner.model.compute_logits(hidden_states[:num_tokens]))
