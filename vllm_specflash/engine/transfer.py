"""Copies from the host to the engine's device that the host does not wait for."""

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy of the array, of its element type."""
    host = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        # From memory that may be paged out, a copy would hold the host up until it is through.
        host = host.pin_memory()
    return host.to(device, non_blocking=True)
