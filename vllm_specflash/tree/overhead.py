"""What steps take beside what was foreseen of them: learned while serving, by the clock."""

import time
from collections import defaultdict
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from vllm_specflash.tree.pause import Typical

# Drafts of the kind that is not chosen are looked at again after so many steps.
LOOK_AGAIN = 512


class Kind(Enum):
    """What a step verifies."""

    PLAIN = "nothing"
    CHAINS = "chains alone"
    TREES = "trees, of which at least one branches"


class Overhead(NamedTuple):
    """Seconds of a step beyond the target's forward, side paths and the making of drafts: scheduling, sampling, verification, and what
    those were taken for too little."""

    plain: float = 0.0
    verifying: float = 0.0


class StepClock:
    """Times whole steps of decoding, kind by kind, at each size of batch (to a power of two).

    Args:
        read: seconds that only ever grow.
    """

    def __init__(self, read: Callable[[], float] = time.perf_counter):
        self._read, self._ended = read, None
        self._seen: dict[tuple[int, Kind], Typical] = defaultdict(Typical)
        self._steps = 0
        self._looked: dict[tuple[int, Kind], int] = {}

    def end_step(self, requests: int, kind: Kind, foreseen: float | None) -> None:
        """A step ends; the next one begins at once.

        Args:
            foreseen: seconds that it should have taken; None of a step that is not to be learned from.
        """
        now, began = self._read(), self._ended
        self._ended = now
        self._steps += 1
        if foreseen is not None and began is not None:
            self._seen[requests.bit_length(), kind].add(now - began - foreseen)
            self._looked[requests.bit_length(), kind] = self._steps

    def overhead(self, requests: int, kind: Kind) -> Overhead:
        """Of steps of so many requests that verify drafts of a kind; none at all before such and plain ones were seen, since one alone would
        favour the other."""
        plain, verifying = self._typical(requests, Kind.PLAIN), self._typical(requests, kind)
        return Overhead(plain.value, verifying.value) if plain and verifying else Overhead()

    def unsure(self, requests: int) -> bool:
        """Whether steps with drafts were seen at this load, and none without."""
        drafts = self._typical(requests, Kind.CHAINS) or self._typical(requests, Kind.TREES)
        return bool(drafts) and not self._typical(requests, Kind.PLAIN)

    def time_for(self, requests: int, kind: Kind) -> bool:
        """Whether it is time to look at what such steps take at this load: none was seen yet, or none for long.

        A yes counts as a look, whatever comes of it: steps that also run prompts teach nothing.
        """
        load = requests.bit_length(), kind
        due = load not in self._looked or self._steps - self._looked[load] > LOOK_AGAIN
        if due:
            self._looked[load] = self._steps
        return due

    def _typical(self, requests: int, kind: Kind) -> Typical:
        return self._seen[requests.bit_length(), kind]
