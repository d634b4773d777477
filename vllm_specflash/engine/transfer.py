"""From the host to the engine's device, without the host waiting for it."""

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array on a device, of its element type; on CPUs that is its own memory."""
    host = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cpu":
        return host
    if device.type == "cuda":
        # From memory that may be paged out, a copy would hold the host up until it is through.
        host = host.pin_memory()
    return host.to(device, non_blocking=True)
