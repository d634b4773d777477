"""What an engine with this target and this draft would be, as far as its configuration tells, and what it refuses."""

from functools import cache
from pathlib import Path

from vllm_specflash.config import METHOD
from vllm_specflash.lab.bench.doctor.checkpoints import weights_bytes
from vllm_specflash.lab.bench.doctor.finding import FAULT, NOTE, OK, Finding

# Settings of a request that some engines refuse with speculation, and a value of each that says something.
REQUESTS = {"min_p": 0.1, "logit_bias": {0: 1.0}, "seed": 1, "logprobs": 1, "min_tokens": 1, "presence_penalty": 0.5, "bad_words": ["a"]}

GIB = 2**30


@cache
def engine_config(target: str, draft: str | None):
    """vLLM's configuration, built and no more."""
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(model=target, speculative_config={"method": METHOD, **({"model": draft} if draft else {})}).create_engine_config()


def examine_together(target: str, draft: str | None) -> Finding:
    """All refusals that need no weights."""
    config = engine_config(target, draft)
    layers = config.model_config.get_total_num_hidden_layers()
    return Finding(
        "together", OK,
        f"up to {config.speculative_config.num_speculative_tokens} drafted tokens a step; the draft's KV adds "
        f"{1 / layers:.1%} to the target's",
    )  # fmt: skip


def examine_memory(target: str, draft: str | None) -> Finding:
    """vLLM's own question at start: is what the engine wants free?"""
    from vllm.platforms import current_platform

    cache = engine_config(target, draft).cache_config
    free, total = _free_and_total_bytes()
    if cache.kv_cache_memory_bytes is None:
        wanted = cache.gpu_memory_utilization * total
        why = f"takes {cache.gpu_memory_utilization:.0%} of all unless told otherwise"
    else:
        wanted = cache.kv_cache_memory_bytes + weights_bytes(Path(target))
        why = "needs that for its KV cache and the target's weights"
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB are free; vLLM wants {wanted / GIB:.1f}: it {why}"
    if wanted > free:
        setting = "set VLLM_CPU_KVCACHE_SPACE=4" if current_platform.is_cpu() else "lower --gpu-memory-utilization"
        return Finding("memory", FAULT, found, f"Free some, or {setting}, say.")
    return Finding("memory", OK, found)


def examine_step_costs(target: str, draft: str | None) -> Finding:
    """What earlier starts of engines with this target measured: drafts are sized by it."""
    from vllm_specflash.engine.step_costs import StepCosts, kept_for

    kept = kept_for(str(engine_config(target, draft).model_config.model))
    if not kept:
        return Finding("step costs", OK, "none kept: the first start measures what steps take, in some seconds")
    newest = kept[0]["measured"]
    steps = ", ".join(f"{n}: {1e3 * s:.1f} ms" for n, s in zip(newest["tokens"], newest["seconds"]) if n in (1, 8, 32, 128))
    settings = "the default settings among them" if StepCosts(engine_config(target, draft)).read() else "none with the default settings"
    return Finding(
        "step costs", OK,
        f"kept for {len(kept)} way{'s' * (len(kept) > 1)} of serving it, {settings}; the newest, of {kept[0]['time'][:10]}, by tokens a step: {steps}",
    )  # fmt: skip


def examine_requests(target: str, draft: str | None) -> Finding:
    """What clients may ask of plain vLLM and not of this engine."""
    config = engine_config(target, draft)
    refused = [name for name, value in REQUESTS.items() if _refuses(config, name, value)]
    if not refused:
        return Finding("requests", OK, "every setting of a request that plain vLLM takes")
    return Finding(
        "requests", NOTE, f"vLLM refuses {' and '.join(refused)} with any speculation (HTTP 400), and custom logits processors",
        "Serve clients that need them without speculation.",
    )  # fmt: skip


def _refuses(config, name: str, value) -> bool:
    """Whether vLLM takes the setting without speculation, and not with it."""
    from vllm import SamplingParams

    def takes(speculative_config) -> bool:
        try:
            SamplingParams(**{name: value}).verify(config.model_config, speculative_config, None, None)
        # Some releases' own error class, ValueError in others.
        except Exception:
            return False
        return True

    return takes(None) and not takes(config.speculative_config)


def _free_and_total_bytes() -> tuple[int, int]:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()
    # vLLM itself needs psutil.
    import psutil

    memory = psutil.virtual_memory()
    return memory.available, memory.total
