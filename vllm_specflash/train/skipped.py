"""What is left out, why, and how often: bad input never ends a run, and is never dropped in silence."""

import logging
from collections import Counter

logger = logging.getLogger(__name__)


class Unusable(ValueError):
    """One prompt or answer that cannot be used.

    Attributes:
        reason: what it is counted under; the same words for every such input.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason


def skip(skipped: Counter, name: str, error: Exception | str) -> None:
    """Count the reason, and log which input it was."""
    skipped[getattr(error, "reason", str(error))] += 1
    logger.warning("skipped %s: %s", name, error)
