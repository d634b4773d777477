"""How often the target took what the draft gave a chance of p: learned while serving."""

import numpy as np

BINS = 16
# Weight of the draft's own word, in expected acceptances, and what is left of an observation after 1 / (1 - DECAY) steps.
PRIOR, DECAY = 20.0, 0.998


class Calibration:
    """Multiplies chances by accepted over expected, per bin of chance; starts out at 1."""

    def __init__(self):
        self._expected, self._accepted = np.zeros(BINS), np.zeros(BINS)
        self._ratio = np.ones(BINS + 1, dtype=np.float32)

    def __call__(self, chance: np.ndarray) -> np.ndarray:
        """Calibrated chances, any shape."""
        return np.minimum(chance * self._ratio[(chance * BINS).astype(np.int64)], 1.0)

    def observe(self, chance: np.ndarray, accepted: np.ndarray) -> None:
        """Take in one step: [T] the draft's own chances of tokens that the target decided on, and what it decided."""
        if not len(chance):
            return
        bins = np.minimum((chance * BINS).astype(np.int64), BINS - 1)
        self._expected = DECAY * self._expected + np.bincount(bins, weights=chance, minlength=BINS)
        self._accepted = DECAY * self._accepted + np.bincount(bins, weights=accepted, minlength=BINS)
        self._ratio[:BINS] = (self._accepted + PRIOR) / (self._expected + PRIOR)
        self._ratio[BINS] = self._ratio[BINS - 1]
