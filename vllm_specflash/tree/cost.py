"""How long drafts should be: tokens go where they buy the most accepted tokens per second.

A step over T tokens takes cost(T) seconds and emits, of every request, one token and its accepted drafts. With
p the chance that a drafted token is accepted together with all before it, the expected rate of a batch of R requests
that verifies the drafts in S is

    (R + sum of p over S) / cost(R + |S|)

Chances never grow along a draft, so the best S of every size is a prefix of the batch's tokens ordered by p, and
never holds a token without those it depends on.
"""

from dataclasses import dataclass

import numpy as np

# Tokens in the batch at which a step is timed; in between the cost is interpolated, beyond it grows at the last rate.
SIZES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@dataclass(frozen=True)
class StepCost:
    """Seconds of one step by tokens in the batch.

    Attributes:
        sizes: [n] token counts, ascending.
        seconds: [n], never descending.
    """

    sizes: np.ndarray
    seconds: np.ndarray

    @classmethod
    def of(cls, timings: dict[int, float]) -> "StepCost":
        """From measured seconds per token count. What disturbs a measurement only ever adds to it, so a batch is never
        taken to cost more than a larger one did."""
        sizes = np.array(sorted(timings))
        return cls(sizes, np.minimum.accumulate([timings[size] for size in sizes[::-1]])[::-1])

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Seconds for each of the token counts."""
        inside = np.interp(tokens, self.sizes, self.seconds)
        if len(self.sizes) < 2:
            return inside
        slope = (self.seconds[-1] - self.seconds[-2]) / (self.sizes[-1] - self.sizes[-2])
        return inside + np.maximum(tokens - self.sizes[-1], 0) * slope


def best_lengths(chances: np.ndarray, requests: int, cost: StepCost | None, overhead: float = 0.0) -> np.ndarray:
    """Length of each draft.

    Args:
        chances: [Q, n] of every drafted token to be accepted with all before it; 0 where it must not be proposed.
        requests: R, requests in the batch; Q of them have drafts.
        cost: None to take whatever has a chance at all.
        overhead: seconds of a step that do not depend on its tokens and that `cost` does not hold.

    Returns:
        [Q] tokens to keep.
    """
    if cost is None:
        return (chances > 0).sum(axis=1)
    # Stable: among equals of one draft, the earlier token first.
    order = np.argsort(-chances, axis=None, kind="stable")
    ranked = chances.ravel()[order]
    ranked = ranked[ranked > 0]
    emitted = requests + np.concatenate(([0.0], np.cumsum(ranked)))
    seconds = overhead + cost(requests + np.arange(len(emitted)))
    count = int(np.argmax(emitted / seconds))
    return np.bincount(order[:count] // chances.shape[1], minlength=len(chances))


def expected_gain(
    chances: np.ndarray, lengths: np.ndarray, requests: int, cost: StepCost | None, draft_seconds: float
) -> float:
    """Speed of a step with these drafts, the time to make them included, over that of a step without.

    Args:
        chances, lengths: [Q, n] and [Q], as given to and returned by best_lengths.
        draft_seconds: of making the drafts of one step.
    """
    if cost is None:
        return np.inf
    kept = np.arange(chances.shape[1]) < lengths[:, None]
    drafted = (requests + chances[kept].sum()) / (cost(np.array(requests + lengths.sum())) + draft_seconds)
    return float(drafted * cost(np.array(requests)) / requests)
