"""From measured step times to predicted speed-ups.

Of R requests a plain step emits R tokens in plain(R) seconds. With n drafted tokens each, a step emits R (1 + s_1 + ... + s_n) in
step(R, n) + draft(R) seconds, where s_i is the share of drafts whose first i tokens are accepted, and step(R, n) is taken on the
line between plain(R) and the measured step(R, K).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vllm_specflash.config import SpecFlashError


@dataclass(frozen=True)
class Costs:
    """Seconds at one number of requests.

    Attributes:
        requests: R.
        plain: a decoding step of plain vLLM.
        full: a step that verifies K drafted tokens of each request, drafting left out.
        draft: making the drafts of one step.
    """

    requests: int
    plain: float
    full: float
    draft: float


@dataclass(frozen=True)
class Prediction:
    """The best that sizing can do: so many drafted tokens, and the speed-up; none and 1 where drafting does not pay."""

    drafted: int
    speed_up: float


def predicted(survival: Sequence[float], costs: Costs) -> Prediction:
    """Args:
    survival: [K] s_1, s_2, ...
    """
    best, emitted = Prediction(0, 1.0), 1.0
    for drafted, share in enumerate(survival, start=1):
        emitted += share
        seconds = costs.plain + (costs.full - costs.plain) * drafted / len(survival) + costs.draft
        best = max(best, Prediction(drafted, emitted * costs.plain / seconds), key=lambda one: one.speed_up)
    return best


def survival_of(tau: float, depth: int) -> list[float]:
    """[depth] shares a, a^2, ... of a draft whose every token is accepted with the same chance, and that emits tau tokens per step.

    Raises:
        SpecFlashError: no such draft, because tau is not between 1 and depth + 1.
    """
    if not 1 <= tau <= depth + 1:
        raise SpecFlashError(f"A draft of {depth} tokens emits 1 to {depth + 1} tokens per step, not {tau:g}: name a tau in between.")
    low, high = 0.0, 1.0
    # Halved to the last bit of a float.
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(middle**i for i in range(depth + 1)) < tau else (low, middle)
    return [high**i for i in range(1, depth + 1)]


def break_even(costs: Costs, depth: int) -> float | None:
    """The least tau that gains anything at this load; None where none does."""
    if predicted([1.0] * depth, costs).drafted == 0:
        return None
    low, high = 1.0, float(depth + 1)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if predicted(survival_of(middle, depth), costs).drafted else (middle, high)
    return high
