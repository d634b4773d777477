"""Real vLLM engines for tests: in this process, eager, small."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from vllm import LLM, SamplingParams
from vllm.v1.engine.llm_engine import LLMEngine

from vllm_specflash.tree.cost import StepCost

SMALL = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": 8,
    "enable_prefix_caching": False,
    "disable_log_stats": False,
    "kv_cache_memory_bytes": 64 << 20,
}

# Drafts whatever they cost: what "auto" does with targets this small depends on how busy the machine is.
ALWAYS = {"method": "specflash", "sizing": "longest"}
# For engines whose sizing is "auto": a target's steps, in seconds, that any draft's own time is nothing against.
PAYING = StepCost(np.array([1, 64]), np.array([1.0, 1.5]))
# Trees run on vLLM's Triton attention on GPUs; so does what they are compared with.
ON_GPU = torch.cuda.is_available()
# Trees are not the default where vLLM runs V2 on a CPU.
TREES = True
if ON_GPU:
    SMALL |= {"attention_backend": "TRITON_ATTN", "mm_encoder_attn_backend": "TORCH_SDPA", "gpu_memory_utilization": 0.5}


def rising_seconds(timed: list[float]):
    """In place of the clock by which steps are measured: runs what is timed, and takes it for a millisecond more each time, in `timed`."""

    def seconds(run) -> float:
        run()
        timed.append(1e-3 * (len(timed) + 1))
        return timed[-1]

    return seconds


@contextmanager
def engine(target: Path, draft: Path | None = None, draft_options: dict | None = None, **overrides) -> Iterator[LLM]:
    """An engine that is gone, memory included, when the block ends.

    Args:
        draft: None for plain vLLM.
        draft_options: further keys of speculative_config.
        overrides: LLM's own arguments.
    """
    if draft is not None:
        # A copy out of the text is accepted whatever draft stands beside it: where that is not the question, none is made.
        given = {**ALWAYS, "tree": TREES, "lookup": False, **(draft_options or {})}
        overrides["speculative_config"] = {"model": str(draft), **given}
    llm = LLM(str(target), **{**SMALL, **overrides})
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


def greedy(max_tokens: int = 48, **overrides) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=max_tokens, **overrides)


def answers(llm: LLM, prompts: list, params) -> list[tuple[int, ...]]:
    """Token ids of every answer."""
    return [tuple(out.outputs[0].token_ids) for out in llm.generate(prompts, params, use_tqdm=False)]


def draft_stats(llm: LLM) -> dict[str, float]:
    """Counters of the draft side since the last call."""
    return llm.collective_rpc("specflash_stats")[0]


def runner(llm: LLM | LLMEngine):
    """The model runner of an engine in this process."""
    return getattr(llm, "llm_engine", llm).model_executor.driver_worker.worker.model_runner


def accepted_tokens(llm: LLM) -> int:
    """Draft tokens accepted since the engine started, by vLLM's own counter."""
    return sum(m.value for m in llm.get_metrics() if m.name == "vllm:spec_decode_num_accepted_tokens")


def deepest_accepted(llm: LLM) -> int:
    """The last position of a draft that was ever accepted."""
    (counts,) = (m.values for m in llm.get_metrics() if m.name == "vllm:spec_decode_num_accepted_tokens_per_pos")
    return max(position + 1 for position, count in enumerate(counts) if count)


def noise_image(seed: int, size: int = 40) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def with_images(text: str, *seeds: int) -> dict:
    """A LLaVA prompt; `text` holds one <image> per seed."""
    return {"prompt": text, "multi_modal_data": {"image": [noise_image(seed) for seed in seeds]}}


def mixed_prompts() -> list:
    """Text, one image, many images (a clip), images at the start and the very end."""
    return [
        "user: hello, who are you? assistant: ",
        with_images("user: <image> what is this? assistant: ", 1),
        with_images("user: " + "<image>" * 6 + " what moves? assistant: ", 2, 3, 4, 5, 6, 7),
        with_images("user: first <image> then some words and <image> compare them. assistant: ", 8, 9),
        with_images("look at this: <image>", 10),
        with_images("<image>", 11),
        "a",
        "user: " + "one two three " * 9 + "assistant: ",
        with_images("again <image> then " + "words " * 20, 12),
        "0123456789 " * 6,
    ]

