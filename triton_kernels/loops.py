"""The paths for CPUs as loops over numpy arrays that numba compiles; vLLM requires it, for its own n-gram drafts.

Between the target's forwards a CPU's caches are cold: twenty array operations on a few numbers each take longer than the work.
"""

import functools
from collections.abc import Callable


def compiled(*signatures: str) -> Callable[[Callable], Callable]:
    """Makes a function of arrays and numbers machine code, at its first call: kept beside its file, or in the user's cache.

    Args:
        signatures: numba's, all of them: none is added while requests wait. `float32[:, :]` takes any strides, `float32[:, ::1]` contiguous rows.
    """

    def decorate(loop: Callable) -> Callable:
        made: list[Callable] = []

        @functools.wraps(loop)
        def call(*arguments):
            if not made:
                made.append(_machine_code(loop, list(signatures)))
            return made[0](*arguments)

        return call

    return decorate


def _machine_code(loop: Callable, signatures: list[str]) -> Callable:
    # Imported with the first loop: it takes half a second, and who drafts nothing has no need of it.
    from numba import njit

    try:
        return njit(signatures, cache=True, error_model="numpy")(loop)
    except RuntimeError:
        # Nowhere to keep it: every process compiles anew.
        return njit(signatures, error_model="numpy")(loop)
