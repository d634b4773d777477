"""Launches that compile for a GPU that need not be there, and do nothing else.

A launcher runs as it is, on CPU tensors, behind a driver that answers for the GPU asked for and a launch that stops after
compiling.
"""

import contextlib
import re
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace

# Shared memory that one block may use, bytes (CUDA C++ Programming Guide, compute capabilities).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}


@contextlib.contextmanager
def counting_variants(arch: int) -> Iterator[dict[str, set]]:
    """Within it a launch compiles nothing; yields, by kernel, the keys of what it would have compiled."""
    from triton import knobs

    variants = defaultdict(set)

    def note(*, key, fn, **details) -> bool:
        variants[fn.jit_function.__name__].add(key)
        return True

    with compiling_for(arch):
        knobs.runtime.jit_cache_hook = note
        try:
            yield variants
        finally:
            knobs.runtime.jit_cache_hook = None


@contextlib.contextmanager
def compiling_for(arch: int) -> Iterator[list]:
    """Within it a launch compiles for that architecture and does nothing else; yields the list of (kernel, compiled)."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    compiled, run, active = [], JITFunction.run, driver._active
    properties = {"max_shared_mem": SHARED_LIMIT[arch], "multiprocessor_count": 132}
    driver.set_active(
        SimpleNamespace(
            get_current_device=lambda: arch,
            get_current_stream=lambda device: 0,
            get_current_target=lambda: GPUTarget("cuda", arch, 32),
            utils=SimpleNamespace(get_device_properties=lambda device: properties),
        )
    )

    def compile_only(self, *args, grid, warmup, **options):
        compiled.append((self.__name__, run(self, *args, grid=grid, warmup=True, **options)))

    JITFunction.run = compile_only
    try:
        yield compiled
    finally:
        JITFunction.run = run
        driver.set_active(active)


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers per thread and bytes of spilled registers of a cubin.

    A stack frame counts as spilled only if the machine code stores to it: some frames of sm_100 are never touched.
    """
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def dump(what: str) -> str:
            command = [knobs.nvidia.cuobjdump.path, what, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        usage = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", dump("--dump-resource-usage"))}
        frame = usage["STACK"] + usage["LOCAL"]
        spilled = frame if frame and re.search(r"\b(STL|LDL)\b", dump("--dump-sass")) else 0
        return usage["REG"], spilled
