"""Counters of the draft side, read through the worker (`collective_rpc("specflash_stats")`)."""

from dataclasses import asdict, dataclass


@dataclass
class DraftStats:
    """Totals since the last reset; times in seconds of the host.

    Attributes:
        steps: engine steps that reached the draft.
        seconds: in all of the draft side.
        network_seconds: of those, in the draft's forward (layer, head, lm_head) and its cache.
        proposed_tokens: tokens handed to the scheduler.
        branching: drafts that were more than a chain.
        moved: drafts whose accepted path did not lie where a chain would, so that its keys and values had to be copied.
        errors: steps in which the draft side failed and proposed nothing.
    """

    steps: int = 0
    seconds: float = 0.0
    network_seconds: float = 0.0
    proposed_tokens: int = 0
    branching: int = 0
    moved: int = 0
    errors: int = 0

    def take(self) -> dict[str, float]:
        """The totals as a dict; starts counting anew."""
        taken = asdict(self)
        self.__init__()
        return taken
