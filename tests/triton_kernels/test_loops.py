"""Loops for CPUs: compiled once, for what their signatures say and nothing else, and in no engine's way."""

import subprocess
import sys

import numpy as np
import pytest

from vllm_specflash.triton_kernels.loops import _loops, compile_loops, compiled


@compiled("float64(float64[:, :])")
def total(rows):
    found = 0.0
    for row in rows:
        for number in row:
            found += number
    return found


def test_a_loop_is_compiled_for_its_signatures_alone():
    compile_loops()
    loop = next(loop for loop in _loops if loop.function.__name__ == "total")
    variants = list(loop.machine_code.signatures)
    numbers = np.arange(12.0).reshape(3, 4)
    assert total(numbers) == 66 and total(numbers.T) == 66 and total(numbers[:, ::2]) == 30
    with pytest.raises(TypeError, match="No matching definition"):
        total(numbers.astype(np.float32))
    assert loop.machine_code.signatures == variants and len(variants) == 1


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same():
    names: dict = {"compiled": compiled}
    # A function out of no file.
    exec("@compiled('int64(int64)')\ndef twice(n):\n    return 2 * n", names)
    assert names["twice"](21) == 42


@pytest.mark.parametrize(
    "step, error", [("save_overload", OSError(28, "No space left on device")), ("load_overload", EOFError("Ran out of input"))]
)
def test_on_a_full_disk_and_from_damaged_files_too(step, error, monkeypatch):
    from numba.core.caching import FunctionCache

    def fails(*arguments):
        raise error

    monkeypatch.setattr(FunctionCache, "load_overload", lambda *arguments: None)
    monkeypatch.setattr(FunctionCache, step, fails)

    @compiled("int64(int64)")
    def thrice(n):
        return 3 * n

    assert thrice(14) == 42


def test_a_process_with_loops_starts_engines():
    """vLLM's workers on CPUs look into whatever modules hold."""
    code = """
import sys
import vllm_specflash.tree.cost
from vllm_specflash.triton_kernels.loops import compile_loops
assert "numba" not in sys.modules
compile_loops()
from vllm.triton_utils.dispatcher import register_kernels
register_kernels({"vllm.v1.sample.rejection_sampler.expand_kernel": lambda *arguments: None})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
