"""What the kernel says of this machine's processor; nothing of torch or vLLM."""

import platform
from pathlib import Path


def cpuinfo(field: str) -> str:
    """What /proc/cpuinfo says of the first core under that name; empty where there is none."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def processor() -> str:
    """The processor's name; its architecture where the kernel has no name for it."""
    return cpuinfo("model name") or platform.machine()
