"""Whether two runs gave the same answers, and where not, how near a tie the target was.

With rounded logits a greedy choice between two nearly equal tokens depends on the shape of the batch, in plain vLLM as
well. Such a difference is told from a fault by the gap between the two best logits, in units of the step between
neighbouring numbers of the logits' dtype at that size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vllm_specflash.lab.bench.records import Output

FRACTION_BITS = {"bfloat16": 7, "float16": 10, "float32": 23}
NEAR_TIE_STEPS = 2.0


def logit_step(logit: float, dtype: str) -> float:
    """Distance between neighbouring numbers of `dtype` around `logit`."""
    return 2.0 ** (math.floor(math.log2(abs(logit))) - FRACTION_BITS[dtype]) if logit else 0.0


def logit_gaps(top_logits: Sequence[Sequence[float]], dtype: str) -> list[float]:
    """Per position, best logit minus second best in steps of the best; each row in any order."""
    gaps = []
    for row in top_logits:
        best, second = sorted(row, reverse=True)[:2]
        step = logit_step(max(abs(best), abs(second)), dtype)
        gaps.append((best - second) / step if step else 0.0)
    return gaps


@dataclass(frozen=True)
class Difference:
    """The first place where an answer leaves the reference; gap in steps, None where it was not recorded."""

    prompt_id: str
    position: int
    gap: float | None

    @property
    def near_tie(self) -> bool:
        return self.gap is not None and self.gap <= NEAR_TIE_STEPS


@dataclass(frozen=True)
class Agreement:
    """How many of `compared` answers are identical to the reference's, and where the others first differ."""

    identical: int
    compared: int
    differences: list[Difference]

    @property
    def explained(self) -> bool:
        """Whether every difference is a near tie."""
        return all(difference.near_tie for difference in self.differences)

    def __str__(self) -> str:
        text = f"{self.identical}/{self.compared}"
        if self.differences:
            widest = max((d.gap for d in self.differences if d.gap is not None), default=None)
            text += " (no gaps recorded)" if widest is None else f" (widest gap {widest:.2g} steps)"
        return text


def compare(reference: Mapping[str, Output], outputs: Sequence[Output]) -> Agreement:
    """Compare answers by prompt id; prompts without a reference are left out."""
    differences, compared = [], 0
    for output in outputs:
        if output.prompt_id not in reference:
            continue
        compared += 1
        expected = reference[output.prompt_id]
        position = first_difference(expected.token_ids, output.token_ids)
        if position is not None:
            gap = expected.gaps[position] if expected.gaps and position < len(expected.gaps) else None
            differences.append(Difference(output.prompt_id, position, gap))
    return Agreement(compared - len(differences), compared, differences)


def first_difference(expected: Sequence[int], actual: Sequence[int]) -> int | None:
    """Index of the first token that differs (the shorter's length if it is a prefix); None if they are the same."""
    for index, (a, b) in enumerate(zip(expected, actual)):
        if a != b:
            return index
    return None if len(expected) == len(actual) else min(len(expected), len(actual))
