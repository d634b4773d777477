"""How often the target took what the draft gave a chance of p: learned while serving."""

import numpy as np
import torch
from torch import Tensor

BINS = 16
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
        bins = np.minimum((chance * BINS).astype(np.int64), BINS - 1)
        self._expected = DECAY * self._expected + np.bincount(bins, weights=chance, minlength=BINS)
        self._accepted = DECAY * self._accepted + np.bincount(bins, weights=accepted, minlength=BINS)
        self.ratio[:BINS] = (self._accepted + PRIOR) / (self._expected + PRIOR)
        self.ratio[BINS] = self.ratio[BINS - 1]


class DeviceCalibration:
    """The same, learned where the drafts are: no value of it is ever read by the host.

    Sums are taken by a matrix product, in an order that depends on shapes alone: ranks that share a target see the same drafts, and
    have to come to the same ratios to the last bit.

    Attributes:
        ratio: [BINS + 1] float32 on the device, always at the same address.
    """

    def __init__(self, device: torch.device | str):
        self._totals = torch.zeros(2, BINS, device=device)
        self._bins = torch.arange(BINS, device=device)
        self.ratio = torch.ones(BINS + 1, device=device)

    def observe(self, chance: Tensor, parents: Tensor, verified: Tensor, nodes: Tensor, lengths: Tensor) -> None:
        """Take in one step of R requests, trees of W nodes with the root first.

        Args:
            chance: [R, W] the draft's own, given the parent; NaN where it said none.
            parents: [R, W] node of each one's parent, -1 where there is none.
            verified: [R] how many of the nodes the step verified.
            nodes, lengths: as tree_accept gives them.
        """
        requests, width = chance.shape
        walked = torch.arange(width - 1, device=chance.device) < lengths[:, None]
        accepted = torch.zeros(requests, width + 1, device=chance.device)
        accepted.scatter_(1, torch.where(walked, nodes, width).long(), 1.0)
        accepted[:, 0] = 1.0
        accepted = accepted[:, :width]
        decided = accepted.gather(1, parents.long().clamp_min(0)) * (parents >= 0) * (chance >= 0)
        decided = decided * (torch.arange(width, device=chance.device) < verified[:, None])
        chance = chance.nan_to_num(0.0)
        bins = (chance * BINS).long().clamp_max(BINS - 1)
        in_bin = (bins.flatten()[:, None] == self._bins).float()
        step = torch.stack(((decided * chance).flatten(), (decided * accepted).flatten()))
        self._totals.mul_(DECAY).add_(step @ in_bin)
        self.ratio[:BINS] = (self._totals[1] + PRIOR) / (self._totals[0] + PRIOR)
        self.ratio[BINS] = self.ratio[BINS - 1]
