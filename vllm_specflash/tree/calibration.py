"""How often the target took what the draft gave a chance of p: learned while serving."""

import numpy as np
import torch
from torch import Tensor

from vllm_specflash.triton_kernels.loops import compiled
from vllm_specflash.triton_kernels.observe_chances import BINS, ChanceCounts, observe_chances

# Weight of the draft's own word, in expected acceptances, and what is left of an observation after 1 / (1 - DECAY) steps.
PRIOR, DECAY = 20.0, 0.998
# A chance of exactly 1 has a bin of its own at the end, so that no lookup needs a check.
UNCALIBRATED = np.ones(BINS + 1)


def calibrated(chance: np.ndarray, ratio: np.ndarray, most: float = 1.0) -> np.ndarray:
    """Chances of any shape, corrected by a Calibration's ratio and never above `most`."""
    return np.minimum(chance * ratio.take((chance * BINS).astype(np.intp)), most)


class Calibration:
    """Accepted over expected, per bin of chance; starts out at 1.

    Attributes:
        ratio: [BINS + 1] what a chance p is to be multiplied by, at int(p * BINS).
    """

    def __init__(self):
        self._expected, self._accepted = np.zeros(BINS), np.zeros(BINS)
        self.ratio = UNCALIBRATED.copy()

    def observe(self, chance: np.ndarray, accepted: np.ndarray) -> None:
        """Take in one step: [T] the draft's own chances of tokens that the target decided on, and what it decided."""
        if not len(chance):
            return
        _take_in(np.asarray(chance, np.float64), np.asarray(accepted, bool), self._expected, self._accepted, self.ratio)


@compiled("void(float64[:], boolean[:], float64[:], float64[:], float64[:])")
def _take_in(chance, accepted, expected, taken, ratio):
    # Kept machine code holds what other files' constants were: the arrays say how many bins there are.
    bins = len(expected)
    expected *= DECAY
    taken *= DECAY
    for said, yes in zip(chance, accepted):
        place = max(min(int(said * bins), bins - 1), 0)
        expected[place] += said
        taken[place] += yes
    for place in range(bins):
        ratio[place] = (taken[place] + PRIOR) / (expected[place] + PRIOR)
    ratio[bins] = ratio[bins - 1]


class DeviceCalibration:
    """The same, learned where the drafts are: no value of it is ever read by the host.

    Attributes:
        counts: on the device, always at the same address.
    """

    def __init__(self, device: torch.device | str):
        self.counts = ChanceCounts.empty(device)

    @property
    def ratio(self) -> Tensor:
        """[BINS + 1] float32."""
        return self.counts.ratio

    def observe(
        self, chances: Tensor, parents: Tensor, slot_of: Tensor, node_bounds: Tensor, nodes: Tensor, lengths: Tensor
    ) -> None:
        """Take in one step, given as observe_chances takes it."""
        observe_chances(chances, parents, slot_of, node_bounds, nodes, lengths, self.counts, DECAY, PRIOR)
