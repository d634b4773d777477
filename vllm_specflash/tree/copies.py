"""What copies out of a request's own text are worth by themselves: drafts that no network makes, for steps that draft nothing else."""

import numpy as np

from vllm_specflash.tree.calibration import calibrated
from vllm_specflash.triton_kernels.find_copies import Copies
from vllm_specflash.triton_kernels.mix_copies import WEIGHTS, copy_weights

WEIGHT = np.array(WEIGHTS)


def copied_chances(copies: Copies, most: np.ndarray, ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of R requests' copies of L tokens, the chance of each token after the one before it, and with all before it, [R, L].

    Args:
        most: [R] tokens that a request's draft may have; none is likely beyond.
        ratio: Calibration.ratio.
    """
    depth = copies.tokens.shape[1]
    conditional = copy_weights(copies.matched.numpy(), depth, WEIGHT)
    chances = calibrated(conditional, ratio).cumprod(1)
    return conditional, np.where(np.arange(depth) < most[:, None], chances, 0.0)
