"""The machine a measurement was made on."""

import os

from vllm_specflash.machine import cpuinfo, processor


def device() -> dict[str, str | int]:
    """Name of the processor, usable cores, memory, and the GPU if there is one."""
    import torch

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
    return set(cpuinfo("flags").split())
