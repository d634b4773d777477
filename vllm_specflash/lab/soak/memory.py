"""Resident memory over time."""

from collections.abc import Sequence
from statistics import median

Sample = tuple[float, int]
# Share of the time after the start-up phase over which memory is averaged at its beginning and its end.
WINDOW = 0.2


def growth(samples: Sequence[Sample], after_seconds: float) -> float | None:
    """How much memory grew after the first `after_seconds`, as a share; None where nothing was seen then.

    Medians over the first and the last fifth of that time are compared: memory moves with what runs just now.

    Args:
        samples: (seconds, bytes), in order.
    """
    later = [sample for sample in samples if sample[0] >= after_seconds]
    if len(later) < 2:
        return None
    begin, end = later[0][0], later[-1][0]
    window = WINDOW * (end - begin)
    first = median(size for seconds, size in later if seconds <= begin + window)
    last = median(size for seconds, size in later if seconds >= end - window)
    return last / first - 1
