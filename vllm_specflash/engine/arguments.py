"""EngineArgs of a user who asks for SpecFLASH: one speculative_config, our worker, and what trees run on."""

import dataclasses

from vllm import envs
from vllm.platforms import current_platform

from vllm_specflash.config import METHOD, TREE_BLOCK_SIZE, SpecFlashError
from vllm_specflash.engine.hooks import register_tree_attention
from vllm_specflash.engine.speculative_config import runs_v2


def settle(engine_args) -> None:
    """Write into the arguments what follows from asking for SpecFLASH, before vLLM makes its configuration of them.

    Raises:
        SpecFlashError: an option given twice, another worker or model runner, or a platform that has none of ours.
    """
    engine_args.speculative_config = merged_config(engine_args)
    engine_args.spec_method = engine_args.spec_model = engine_args.spec_tokens = None
    engine_args.worker_cls = worker_class(engine_args.worker_cls)
    if engine_args.speculative_config.get("tree") is not False:
        if not current_platform.is_cpu():
            select_tree_attention(engine_args)
        elif engine_args.block_size is None:
            engine_args.block_size = TREE_BLOCK_SIZE


def merged_config(engine_args) -> dict:
    """The dict form of whatever mixture of `speculative_config` and --spec-* was given."""
    given = engine_args.speculative_config
    merged = {} if given is None or isinstance(given, str) else dict(given)
    for flag, key in (("method", "method"), ("model", "model"), ("tokens", "num_speculative_tokens")):
        value = getattr(engine_args, f"spec_{flag}", None)
        if value is None:
            continue
        if key in merged:
            raise SpecFlashError(f"Give either --spec-{flag} or speculative_config's {key!r}, not both.")
        merged[key] = value
    return {"method": METHOD, **merged}


def worker_class(given: str) -> str:
    """Our worker for this platform.

    Raises:
        SpecFlashError: the user asks for another worker or model runner, or the platform has none of ours.
    """
    on_cpu = current_platform.is_cpu()
    if not on_cpu and not current_platform.is_cuda_alike():
        raise SpecFlashError(
            f"SpecFLASH does not support {current_platform.device_name} devices: serve this target without speculation."
        )
    v2 = runs_v2()
    if envs.VLLM_USE_V2_MODEL_RUNNER is not None and envs.VLLM_USE_V2_MODEL_RUNNER != v2:
        raise SpecFlashError(
            f"SpecFLASH runs on vLLM's model runner {'V2' if v2 else 'V1'} on this machine: unset VLLM_USE_V2_MODEL_RUNNER."
        )
    if not on_cpu:
        ours = "vllm_specflash.engine.v2.worker.SpecFlashGPUWorker"
    elif v2:
        ours = "vllm_specflash.engine.v2.cpu_worker.SpecFlashCPUWorker"
    else:
        ours = "vllm_specflash.engine.v1.cpu_worker.SpecFlashCPUWorker"
    if given not in ("auto", ours):
        raise SpecFlashError(f"SpecFLASH needs its own worker class, not {given}: leave worker_cls at 'auto'.")
    return ours


def select_tree_attention(engine_args) -> None:
    """Choose our attention backend for an engine whose user left the choice to vLLM, or chose the one that ours extends.

    Any other choice stands, and so does vLLM's own where ours cannot be had; drafts are chains then, and the worker says so.
    """
    attention = engine_args.attention_config
    chosen = {_backend_name(choice) for choice in (engine_args.attention_backend, attention.backend)} - {None, "AUTO"}
    if chosen <= {"TRITON_ATTN"} and not attention.backend_per_kind and register_tree_attention():
        # vLLM takes the choice from one of the two places only.
        engine_args.attention_config = dataclasses.replace(attention, backend=None)
        engine_args.attention_backend = "CUSTOM"


def _backend_name(choice) -> str | None:
    """Of an AttentionBackendEnum, its name in any case, or nothing."""
    return None if choice is None else getattr(choice, "name", str(choice)).upper()
