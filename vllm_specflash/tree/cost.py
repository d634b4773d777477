"""How long drafts should be: tokens go where they buy the most accepted tokens per second.

A step over T tokens takes cost(T) seconds and emits, of every request, one token and its accepted drafts. With
p the chance that a drafted token is accepted together with all before it, the expected rate of a batch of R requests
that verifies the drafts in S is

    (R + sum of p over S) / (cost(R + |S|) + side paths of S * what one takes)

Chances never grow along a draft, so a prefix of the batch's tokens ordered by p never holds a token without those it
depends on, and where side paths take no time of their own the best S of every size is one.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vllm_specflash.tree.overhead import Overhead
from vllm_specflash.triton_kernels.loops import compiled

# Tokens in the batch at which a step is timed; in between the cost is interpolated, beyond it grows at the last rate.
SIZES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@dataclass(frozen=True)
class StepCost:
    """Seconds of one step by tokens in the batch.

    Attributes:
        sizes: [n] token counts, ascending.
        seconds: [n], never descending.
        side_path_seconds: of each path of a tree but its first, beside its tokens.
    """

    sizes: np.ndarray
    seconds: np.ndarray
    side_path_seconds: float = 0.0

    @classmethod
    def of(cls, timings: dict[int, float], side_path_seconds: float = 0.0) -> "StepCost":
        """From measured seconds per token count. What disturbs a measurement only ever adds to it, so a batch is never
        taken to cost more than a larger one did."""
        sizes = np.array(sorted(timings))
        return cls(sizes, np.minimum.accumulate([timings[size] for size in sizes[::-1]])[::-1], side_path_seconds)

    def __str__(self) -> str:
        steps = ", ".join(f"{size}: {1e3 * seconds:.1f} ms" for size, seconds in zip(self.sizes.tolist(), self.seconds.tolist()))
        return f"{steps}; a side path takes {1e3 * self.side_path_seconds:.2f} ms"

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Seconds for each of the token counts."""
        inside = np.interp(tokens, self.sizes, self.seconds)
        if len(self.sizes) < 2:
            return inside
        slope = (self.seconds[-1] - self.seconds[-2]) / (self.sizes[-1] - self.sizes[-2])
        return inside + np.maximum(tokens - self.sizes[-1], 0) * slope


class Sizes(NamedTuple):
    """How much of each draft to verify, and what that is expected to be worth."""

    lengths: np.ndarray
    """[Q] tokens to keep."""
    gain: float
    """Tokens per second of the step, the time to make its drafts included, over those of a step without drafts."""


def best_sizes(
    chances: np.ndarray,
    requests: int,
    cost: StepCost | None,
    draft_seconds: float = 0.0,
    starts_path: np.ndarray | None = None,
    overhead: Overhead = Overhead(),
) -> Sizes:
    """The sizes with the highest expected rate.

    Args:
        chances: [Q, n] of every drafted token to be accepted with all before it; 0 where it must not be proposed.
        requests: R, requests in the batch; Q of them have drafts.
        cost: None to take whatever has a chance at all.
        draft_seconds: of making the drafts of one step, which `cost` does not hold.
        starts_path: [Q, n] whether a side path begins with the token; nowhere if not given.
        overhead: what steps of this load take beside all that, as seen at the sizes chosen here. It counts in the gain alone: how it would
            change with the size nobody has seen.
    """
    if cost is None:
        return Sizes((chances > 0).sum(axis=1), np.inf)
    lengths = np.zeros(len(chances), np.int64)
    starts_path = np.zeros(chances.shape, bool) if starts_path is None else starts_path
    seconds = cost(requests + np.arange(chances.size + 1))
    emitted, verifying = _best(
        np.asarray(chances, np.float64), starts_path, requests, seconds, cost.side_path_seconds, draft_seconds, lengths
    )
    plain = _whole(seconds[0], overhead.plain)
    drafted = (_whole(verifying, overhead.verifying) if lengths.any() else plain) + draft_seconds
    return Sizes(lengths, float((emitted / drafted) / (requests / plain)))


@compiled("UniTuple(float64, 2)(float64[:, :], boolean[:, :], int64, float64[:], float64, float64, int64[::1])")
def _best(chances, starts_path, requests, seconds, side_path_seconds, draft_seconds, lengths):
    """Fills lengths [Q], and says what is then emitted, and in how many seconds beside draft_seconds; seconds: by drafted tokens."""
    width = chances.shape[1]
    # Stable: among equals of one draft, the earlier token first.
    order = np.argsort(-chances.flatten(), kind="mergesort")
    emitted, side_paths = float(requests), 0.0
    best_emitted, best_seconds, best_count = emitted, seconds[0], 0
    for count in range(1, len(order) + 1):
        row, token = divmod(order[count - 1], width)
        if not chances[row, token] > 0:
            break
        emitted += chances[row, token]
        side_paths += side_path_seconds * starts_path[row, token]
        taken = seconds[count] + side_paths
        if emitted / (taken + draft_seconds) > best_emitted / (best_seconds + draft_seconds):
            best_emitted, best_seconds, best_count = emitted, taken, count
    for rank in range(best_count):
        lengths[order[rank] // width] += 1
    return best_emitted, best_seconds


def _whole(foreseen: float, overhead: float) -> float:
    """Seconds of a step. What was foreseen may be more than what steps take, but no time is negative."""
    return max(foreseen + overhead, 0.1 * foreseen)
