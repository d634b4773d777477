"""What steps take beside what was foreseen of them: learned while serving, by the clock."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from vllm_specflash.tree.pause import Typical


class Overhead(NamedTuple):
    """Seconds of a step beyond the target's forward, side paths and the making of drafts: scheduling, sampling, verification, and what
    those were taken for too little."""

    plain: float = 0.0
    verifying: float = 0.0


class StepClock:
    """Times whole steps of decoding, those that verified drafts and those that didn't, at each size of batch (to a power of two).

    Args:
        read: seconds that only ever grow.
    """

    def __init__(self, read: Callable[[], float] = time.perf_counter):
        self._read, self._ended = read, None
        self._seen: dict[tuple[int, bool], Typical] = defaultdict(Typical)

    def end_step(self, requests: int, verified: bool, foreseen: float | None) -> None:
        """A step ends; the next one begins at once.

        Args:
            foreseen: seconds that it should have taken; None of a step that is not to be learned from.
        """
        now, began = self._read(), self._ended
        self._ended = now
        if foreseen is not None and began is not None:
            self._seen[requests.bit_length(), verified].add(now - began - foreseen)

    def overhead(self, requests: int) -> Overhead:
        """Of steps of so many requests; none at all before both kinds were seen, since one alone would favour the other."""
        plain, verifying = self._timings(requests)
        return Overhead(plain.value, verifying.value) if plain and verifying else Overhead()

    def unsure(self, requests: int) -> bool:
        """Whether steps with drafts were seen at this load, and none without."""
        plain, verifying = self._timings(requests)
        return bool(verifying) and not plain

    def _timings(self, requests: int) -> tuple[Typical, Typical]:
        return self._seen[requests.bit_length(), False], self._seen[requests.bit_length(), True]
