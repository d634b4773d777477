"""Which pictures are for what. A picture's content decides, so that no content is in two splits whatever the seeds."""

from collections.abc import Callable
from zlib import crc32

import numpy as np

SPLITS = {"heldout": {0}, "draft": {1, 2, 3}, "target": {4, 5, 6, 7, 8, 9}}


def split_of(content: str) -> str:
    """ "heldout" (tenth of all contents, evaluation only), "draft" (three tenths) or "target" (six tenths)."""
    digit = crc32(content.encode()) % 10
    return next(split for split, digits in SPLITS.items() if digit in digits)


def sample_in(split: str, sample: Callable, rng: np.random.Generator):
    """Draw `sample(rng)` until its `.content` lies in `split`."""
    while True:
        drawn = sample(rng)
        if split_of(drawn.content) == split:
            return drawn
