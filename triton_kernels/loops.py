"""Loops over numpy arrays that numba compiles, for CPUs; vLLM requires it, for its own n-gram drafts.

Between the target's forwards a CPU's caches are cold: twenty array operations on a few numbers each take longer than the work.
"""

import functools
from collections.abc import Callable

_loops: list["_Loop"] = []


class _Loop:
    """A function of arrays and numbers that becomes machine code once."""

    def __init__(self, function: Callable, signatures: list[str]):
        self.function, self.signatures = function, signatures

    @functools.cached_property
    def machine_code(self) -> Callable:
        # Imported with the first loop: it takes half a second, and who drafts nothing has no need of it.
        from numba import njit

        _answer_for_llvmlite()
        try:
            return njit(self.signatures, cache=True, error_model="numpy")(self.function)
        except Exception:
            # Nowhere to keep it, no room, or what was kept is damaged: this process compiles for itself.
            return njit(self.signatures, error_model="numpy")(self.function)


def compiled(*signatures: str) -> Callable[[Callable], Callable]:
    """Has a function of arrays and numbers compiled at its first call, and kept beside its file, or in the user's cache. It checks no bounds.

    Args:
        signatures: numba's, all of them: none is added while requests wait. `float32[:, :]` takes any strides, `float32[:, ::1]` contiguous rows.
    """

    def decorate(function: Callable) -> Callable:
        loop = _Loop(function, list(signatures))
        _loops.append(loop)

        @functools.wraps(function)
        def call(*arguments):
            return loop.machine_code(*arguments)

        return call

    return decorate


def compile_loops() -> None:
    """Compile all that were imported so far, so that no request waits for it."""
    for loop in _loops:
        loop.machine_code  # noqa: B018


def _answer_for_llvmlite() -> None:
    """Let a process that has imported numba start engines.

    vLLM's workers on CPUs (0.32) read the `__dict__` of whatever modules hold. llvmlite's handle of its library has none, and gives a C function
    for any name that it is asked for.
    """
    from llvmlite.binding import ffi

    functions = getattr(ffi.lib, "_fntab", None)
    if isinstance(functions, dict):
        functions["__dict__"] = {}
