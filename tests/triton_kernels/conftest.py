"""Kernel tests run on the GPU where there is one, and otherwise under Triton's interpreter.

Triton reads TRITON_INTERPRET when it is first imported, which another test of the same session may long have done. So tests
marked `kernel` leave a CPU session and run in one child process with the variable set: test_interpreter.py starts it.
"""

import os
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch._subclasses.fake_tensor import FakeTensorMode

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_GPU = torch.cuda.is_available()

if INTERPRETED:
    # The interpreter holds bfloat16 as its bit pattern and multiplies that in tl.dot; widen the operands first.
    from triton import language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    _create_dot = InterpreterBuilder.create_dot

    def _create_wide_dot(self, a, b, *rest):
        a, b = (self.create_fp_ext(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return _create_dot(self, a, b, *rest)

    InterpreterBuilder.create_dot = _create_wide_dot

# Loaded here and not in a fixture: @settings inherits from the profile that is current when a test module is imported.
settings.register_profile("kernels", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("kernels")


def pytest_configure(config):
    config.addinivalue_line("markers", "kernel: launches a Triton kernel (GPU, or the interpreter's child process)")
    config.addinivalue_line("markers", "parent: belongs to the session itself, not to the interpreter's child process")
    # log2 of a sum that nothing was added to is -inf by intent; only the interpreter's numpy remarks on it.
    config.addinivalue_line("filterwarnings", "ignore:divide by zero encountered in log2:RuntimeWarning")


def pytest_collection_modifyitems(config, items):
    here = os.path.dirname(__file__)

    def runs(item):
        if not str(item.path).startswith(here):
            return True
        if item.get_closest_marker("kernel"):
            return INTERPRETED or HAS_GPU
        return not (INTERPRETED and item.get_closest_marker("parent"))

    dropped = [item for item in items if not runs(item)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if runs(item)]


@pytest.fixture(autouse=True)
def _deterministic():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def device():
    return torch.device("cuda" if HAS_GPU and not INTERPRETED else "cpu")


def _each_tensor(thing, change):
    """The same dict of arguments, named tuple or tensor, with every tensor in it changed."""
    if isinstance(thing, torch.Tensor):
        return change(thing)
    if isinstance(thing, dict):
        return {name: _each_tensor(value, change) for name, value in thing.items()}
    if isinstance(thing, tuple) and hasattr(thing, "_fields"):
        return type(thing)(*(_each_tensor(part, change) for part in thing))
    return thing


@pytest.fixture(scope="session")
def on_device(device):
    """Move a tensor, or the tensors of a dict of arguments, to the device under test."""
    return lambda thing: _each_tensor(thing, lambda tensor: tensor.to(device))


@pytest.fixture(scope="session")
def faked():
    """Within it, the arguments given as fake tensors on a device: they hold no values, so reading one on the host raises."""

    @contextmanager
    def enter(args, device):
        with FakeTensorMode():
            yield _each_tensor(args, lambda x: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device))

    return enter


@pytest.fixture(scope="session")
def ancestor_masks():
    """parents of one tree (-1 at the root) -> int64 bitmasks, bit j of entry i set if node j is i or above it."""

    def masks(parents):
        bits = []
        for node, parent in enumerate(parents):
            bits.append((bits[parent] if parent >= 0 else 0) | 1 << node)
        return torch.tensor([b - (1 << 64) if b >> 63 else b for b in bits], dtype=torch.int64)

    return masks


TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(scope="session")
def close():
    """Assert two results agree to what the dtype of the first can hold of attention over unit normals."""

    def check(actual, expected, dtype=None):
        atol = TOLERANCE[dtype or actual.dtype]
        torch.testing.assert_close(actual.double().cpu(), expected.double().cpu(), atol=atol, rtol=atol, equal_nan=True)

    return check
