"""glibc's allocator, told to keep what training frees."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Stop glibc from handing large blocks back to the kernel after every operation.

    Each activation of a CPU training step is tens of megabytes, which glibc maps and unmaps anew: clearing the pages
    costs several times the matrix products. Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
