"""Measures what drafts are sized by, once the engine is warm: seconds of a step by the tokens in its batch."""

import time

import numpy as np
from vllm.logger import init_logger

from vllm_specflash.engine.stats import seconds
from vllm_specflash.tree.cost import SIZES, StepCost

logger = init_logger("vllm.specflash")

# Each size of batch is timed this often, unless that takes longer than so many seconds; but twice at least.
MOST_ROUNDS, MEASURING_SECONDS = 5, 4.0


def measured_step_cost(runner) -> StepCost | None:
    """Of the target of one of our V1 model runners. All ranks of a target ask together; None but on the one that leads."""
    sizes = [size for size in SIZES if size <= runner.max_num_tokens]
    for size in sizes:
        seconds(lambda: _step(runner, size))
    began = time.perf_counter()
    # Round after round, so that what disturbs one measurement of a size is gone at the next.
    timings = dict.fromkeys(sizes, np.inf)
    for rounds in range(MOST_ROUNDS):
        late = time.perf_counter() - began > MEASURING_SECONDS
        # A target's ranks only ever run together.
        if runner.drafter.ranks.agree(rounds >= 2 and late):
            break
        timings = {size: min(timings[size], seconds(lambda: _step(runner, size))) for size in sizes}
    if not runner.drafter.ranks.leads:
        return None
    side_path = runner.side_paths.side_path_seconds() if runner.side_paths is not None else 0.0
    measured = ", ".join(f"{n}: {timings[n] * 1e3:.1f} ms" for n in sizes)
    logger.info("SpecFLASH measured steps of %s; a side path takes %.2f ms", measured, side_path * 1e3)
    return StepCost.of(timings, side_path)


def _step(runner, num_tokens: int) -> None:
    """The target's forward and lm_head over so many tokens."""
    hidden_states, _ = runner._dummy_run(num_tokens)
    # Where LoRA is enabled, lm_head wants to know whose adapter each of its rows has.
    with runner.maybe_select_dummy_loras(runner.lora_config, np.ones(num_tokens, dtype=np.int32)):
        runner.model.compute_logits(hidden_states[:num_tokens]).argmax(-1)
