"""Times on this machine's GPU, and the bandwidth that they are held against."""

import statistics
from collections.abc import Callable

import torch

DEVICE = "cuda"
REPEATS = 5


def milliseconds(function: Callable[[], object]) -> float:
    """Median of REPEATS medians, caches flushed between calls by Triton's own timer."""
    from triton.testing import do_bench

    return statistics.median(do_bench(function, return_mode="median") for _ in range(REPEATS))


def copy_ceiling() -> float:
    """GB/s of a device-to-device copy of 1 GiB, bytes read and bytes written counted."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.numel() / milliseconds(lambda: target.copy_(source)) / 1e6
