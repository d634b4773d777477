"""How many tokens to draft by batch size, where nothing finer is to be had: from measured step costs and what drafts usually bring.

With K tokens drafted for each of R requests, a step over R (1 + K) rows emits R (1 + p_1 + ... + p_K) tokens, p_i the chance
of the i-th best token. The K of the highest rate is taken; 0 where a plain step has it.
"""

import numpy as np

from vllm_specflash.tree.cost import StepCost

# Chance of the i-th best of a tree's tokens, before anything is known of a draft: p_i = FIRST / i^FALL. On the demo's chat, where
# drafts are worst, 16 tokens then bring what trees bring there.
FIRST, FALL = 0.55, 0.85


def usual_chances(num_tokens: int) -> np.ndarray:
    """p_1 .. p_n."""
    return FIRST / np.arange(1, num_tokens + 1) ** FALL


def batch_schedule(
    cost: StepCost, draft_seconds: float, num_tokens: int, max_requests: int, chances: np.ndarray | None = None
) -> list[tuple[int, int, int]]:
    """vLLM's schedule: ranges (first, last, K) of batch sizes from 1 to max_requests, that border on each other.

    Args:
        cost: seconds of a step by rows.
        draft_seconds: of making the drafts of one step.
        num_tokens: n, the most tokens of a draft. K is 0, n, or n halved once or twice: every K is a shape to be compiled.
        chances: [n], usual_chances if not given.
    """
    gains = np.cumsum(usual_chances(num_tokens) if chances is None else chances)
    lengths = sorted({num_tokens >> shift for shift in range(3)} - {0})
    ranges: list[tuple[int, int, int]] = []
    for requests in range(1, max_requests + 1):
        rows = requests * (1 + np.array([0, *lengths]))
        seconds = cost(rows) + np.where(np.arange(len(rows)) > 0, draft_seconds, 0.0)
        rates = requests * (1 + np.array([0.0, *(gains[k - 1] for k in lengths)])) / seconds
        best = [0, *lengths][int(np.argmax(rates))]
        if ranges and ranges[-1][2] == best:
            ranges[-1] = (ranges[-1][0], requests, best)
        else:
            ranges.append((requests, requests, best))
    return ranges
