"""Triton where it can be imported, and a stand-in that still lets the kernel files be imported where it cannot.

A CPU user without a working Triton runs the torch paths only. The stand-in's `jit` leaves the kernel a plain function,
and launching it says what is missing.
"""

import functools

from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["launch", "launches", "tl", "triton"]

try:
    import triton
    import triton.language as tl
except Exception:  # a Triton built for another torch or driver fails in many ways, none of which a CPU user should meet

    class _Unlaunchable:
        def __init__(self, fn):
            self.fn, self.__name__, self.__doc__ = fn, fn.__name__, fn.__doc__

        def __getitem__(self, grid):
            raise ImportError(f"{self.__name__} needs Triton, which cannot be imported here: install triton.")

    class _Language:
        constexpr = object

    class _Triton:
        @staticmethod
        def jit(fn=None, **options):
            return _Unlaunchable if fn is None else _Unlaunchable(fn)

    triton, tl = _Triton(), _Language()


def launch(kernel, grid: tuple[int, ...], *arguments, **constants) -> None:
    """Start a kernel over a grid; an empty grid starts nothing.

    Nor do fake tensors and those on the meta device: the launchers allocate what they return, so a dry run knows all shapes
    without a GPU, and fails where a launcher would wait for a device's values.
    """
    if 0 not in grid and not isinstance(arguments[0], FakeTensor) and not arguments[0].is_meta:
        kernel[grid](*arguments, **constants)


@functools.cache
def _cpu_backend() -> bool:
    return "cpu" in getattr(getattr(triton, "backends", None), "backends", {})


def launches(tensor) -> bool:
    """Whether kernels run where a tensor lies: on GPUs, on CPUs that Triton has a backend for, and in dry runs."""
    return tensor.is_cuda or tensor.is_meta or (tensor.is_cpu and _cpu_backend())
