"""Whether a machine, its vLLM, a target and a draft fit together, and what to do where they do not."""

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from vllm_specflash import compat
from vllm_specflash.bench.device import cpu_flags, device
from vllm_specflash.config import METHOD, SpecFlashError, SpecFlashOptions, find_draft, first_sentence

OK, NOTE, FAULT = "ok", "note", "fault"
PLUGIN_GROUP = "vllm.general_plugins"


@dataclass(frozen=True)
class Finding:
    """One line of the screen: what was looked at, how it is, and what to do about it if it is not well."""

    subject: str
    state: str
    found: str
    advice: str = ""


def examine(target: str | None = None, draft: str | None = None) -> Iterator[Finding]:
    """Findings in an order in which each rests on those before it; what cannot be judged any more is left out.

    Args:
        target: folder or hub id; None for the machine and vLLM alone.
        draft: folder or hub id; None for the target's own.
    """
    yield _machine()
    yield _torch()
    vllm = _guarded("vLLM", _vllm)
    yield vllm
    if vllm.state == FAULT:
        return
    yield _guarded("plugin", _plugin)
    yield _guarded("kernels", _kernels)
    if target is None:
        return
    findings = (
        _guarded("target", lambda: _target(target)),
        _guarded("draft", lambda: _draft(target, draft)),
    )
    yield from findings
    if all(finding.state != FAULT for finding in findings):
        yield _guarded("together", lambda: _together(target, draft))


def _guarded(subject: str, examine_one: Callable[[], Finding]) -> Finding:
    """A finding whatever happens: this command is run where things are broken."""
    try:
        return examine_one()
    except SpecFlashError as error:
        return Finding(subject, FAULT, str(error))
    except Exception as error:
        return Finding(subject, FAULT, f"{type(error).__name__}: {first_sentence(error)}")


def _machine() -> Finding:
    facts = device()
    found = f"{facts.get('gpu', facts['cpu'])}, {facts['cores']} cores, {facts['memory_gib']} GiB"
    if "gpu" not in facts and cpu_flags() and "avx512f" not in cpu_flags():
        return Finding("machine", NOTE, f"{found}; no AVX-512", "vLLM's CPU build is fastest with AVX-512; expect less.")
    return Finding("machine", OK, found)


def _torch() -> Finding:
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


def _vllm() -> Finding:
    advice = f"Install a stock vLLM of {compat.SUPPORTED}."
    fault = compat.problem()
    if fault is None:
        from vllm.platforms import current_platform

        names = compat.ENGINE_NAMES + (compat.CPU_NAMES if current_platform.is_cpu() else ())
        fault = compat.problem(names)
    if fault:
        return Finding("vLLM", FAULT, fault, advice)
    return Finding("vLLM", OK, f"{compat.vllm_version()} on {current_platform.device_name or current_platform.device_type}")


def _plugin() -> Finding:
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


def _kernels() -> Finding:
    try:
        spec = importlib.util.find_spec("triton_kernels")
    except ValueError:
        # A module of that name without a spec: not ours.
        spec = None
    ours = Path(__file__).resolve().parents[2] / "triton_kernels"
    if spec is not None and spec.origin and Path(spec.origin).resolve().parent == ours:
        return Finding(
            "kernels", NOTE, f"{ours} can be imported at top level", "Keep the repository's root off PYTHONPATH: "
            "vLLM would take it for another package of that name.",
        )  # fmt: skip
    import torch

    return Finding("kernels", OK, "Triton" if torch.cuda.is_available() else "torch paths (no GPU)")


def _target(target: str) -> Finding:
    from vllm.engine.arg_utils import EngineArgs

    config = EngineArgs(model=target).create_model_config()
    architecture = ", ".join(config.architectures)
    kind = "text and pictures" if config.is_multimodal_model else "text only"
    return Finding(
        "target", OK, f"{architecture}, {kind}, hidden size {config.get_hidden_size()}, {config.get_vocab_size():,} tokens"
    )


def _draft(target: str, draft: str | None) -> Finding:
    from vllm_specflash.engine.speculative_config import load_draft_config

    folder = find_draft(SpecFlashOptions(model=draft), target)
    config = load_draft_config(folder)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 2**20
    return Finding(
        "draft", OK,
        f"{folder}: {config.semi_ar_width} tokens x {config.num_rounds} rounds, {config.num_latents} latents, "
        f"{config.num_draft_tokens:,} tokens, {size:.1f} MiB, for {config.target_name or 'any target'}",
    )  # fmt: skip


def _together(target: str, draft: str | None) -> Finding:
    """All refusals that need no weights, by building the engine's configuration and no more."""
    from vllm.engine.arg_utils import EngineArgs

    speculative = {"method": METHOD, **({"model": draft} if draft else {})}
    config = EngineArgs(model=target, speculative_config=speculative).create_engine_config()
    layers = config.model_config.get_total_num_hidden_layers()
    return Finding(
        "together", OK,
        f"up to {config.speculative_config.num_speculative_tokens} drafted tokens a step; the draft's KV adds "
        f"{1 / layers:.1%} to the target's",
    )  # fmt: skip
