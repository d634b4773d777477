"""The machine a measurement was made on."""

import os
from pathlib import Path


def device() -> dict[str, str | int]:
    """Name of the processor, usable cores, memory, and the GPU if there is one."""
    import torch

    from vllm_specflash.engine.step_costs import processor

    facts: dict[str, str | int] = {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def cpu_flags() -> set[str]:
    """Instruction sets by the kernel's names; empty where /proc/cpuinfo has none."""
    return set(_cpuinfo("flags").split())


def _cpuinfo(field: str) -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith(field):
                return line.partition(":")[2].strip()
    return ""
