"""No kernel touches memory that is not its tensors'."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("guarded.py")

def run(side, *names):
    """Exit status and names of the cases begun (all, where none is named) of a process of its own."""
    env = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, SCRIPT, side, *names], env=env, cwd=SCRIPT.parent, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines(), done.stderr[-3000:]


@pytest.mark.parent
@pytest.mark.parametrize("side", ["above", "below"])
def test_kernels_between_pages_that_may_not_be_touched(side):
    pytest.importorskip("triton")
    status, begun, complaint = run(side)
    assert status == 0, f"{begun[-1]}: {complaint}"
    assert len(begun) == 16


@pytest.mark.parent
@pytest.mark.parametrize("side, fault", [("above", "one beyond the end"), ("below", "one before the beginning")])
def test_one_element_too_far_is_noticed(side, fault):
    pytest.importorskip("triton")
    assert run(side, fault)[0] == -signal.SIGSEGV
