"""Inside the process of one engine (engine.py): the functions that its handle has called there, and the engine that they share."""

import os
import time
from pathlib import Path

from vllm_specflash.engine.synthetic import ALLOWED
from vllm_specflash.lab.bench.engine_setup import EngineFacts, EngineSetup
from vllm_specflash.lab.bench.identity import logit_gaps
from vllm_specflash.lab.bench.records import Drafts, Output, Pass, Steps, StepTotals
from vllm_specflash.train.images import read_image
from vllm_specflash.train.prompts import Prompt

# vLLM's processes, where it has several, poll each other this long after their last message before they sleep.
POLLING_SECONDS = 1.2

_llm = None
_start_seconds = 0.0


def start(setup: EngineSetup, log: str) -> EngineFacts:
    """Load the engine, with this process's output in `log` from now on."""
    global _llm, _start_seconds
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    began = time.perf_counter()
    os.environ[ALLOWED] = "1"
    _one_process_on_cpus()
    from vllm import LLM

    _llm = LLM(**setup.engine_args())
    _llm.collective_rpc("bench_install")
    _start_seconds = time.perf_counter() - began
    return facts()


def _one_process_on_cpus() -> None:
    """Unless the user says otherwise, keep a CPU engine's scheduler and worker in this one process.

    vLLM's default is a process for each. They poll each other for a second after every message, which would
    disturb the engine whose turn is next, and on few cores leave the model fewer threads.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


def stop() -> None:
    """Shut the engine down, if it was started."""
    global _llm
    if _llm is not None:
        _llm.llm_engine.engine_core.shutdown()
        _llm = None


def settle() -> None:
    """As Engine.settle."""
    _llm.collective_rpc("bench_settle")


def facts() -> EngineFacts:
    """As Engine.facts."""
    memory = _llm.collective_rpc("bench_memory")[0]
    memory.pop("pid")
    return EngineFacts(start_seconds=_start_seconds, threads=_llm.collective_rpc("bench_threads")[0], **memory)


def generate(prompts: list[Prompt], batch_size: int, max_tokens: int, logits: bool, ignore_eos: bool) -> Pass:
    """As Engine.generate; images are read before the clock starts."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=2 if logits else None, ignore_eos=ignore_eos)
    chats = [_with_images(prompt) for prompt in prompts]
    _llm.collective_rpc("bench_take")
    counters, outputs, wall = _draft_counters(), [], 0.0
    for first in range(0, len(prompts), batch_size):
        began = time.perf_counter()
        answers = _llm.chat(chats[first : first + batch_size], sampling, use_tqdm=False)
        wall += time.perf_counter() - began
        outputs += [_output(p, a, logits) for p, a in zip(prompts[first : first + batch_size], answers, strict=True)]
    totals = _llm.collective_rpc("bench_take")[0]
    if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
        time.sleep(POLLING_SECONDS)
    totals = {**totals, **{kind: StepTotals(**totals[kind]) for kind in ("decode", "prefill")}}
    steps = Steps(**totals)
    return Pass(outputs, wall, steps, _difference(_draft_counters(), counters))


def _with_images(prompt: Prompt) -> list[dict]:
    """Messages in vLLM's chat format; images are read here, so that no disk is in the timings."""

    def part(part: dict) -> dict:
        return part if part["type"] == "text" else {"type": "image_pil", "image_pil": read_image(Path(part["path"]))}

    return [
        m if isinstance(m["content"], str) else {**m, "content": [part(p) for p in m["content"]]} for m in prompt.messages
    ]


def _output(prompt: Prompt, answer, logits: bool) -> Output:
    completion, metrics = answer.outputs[0], answer.metrics
    dtype = str(_llm.model_config.dtype).removeprefix("torch.")
    top = [[entry.logprob for entry in position.values()] for position in completion.logprobs] if logits else None
    return Output(
        prompt_id=prompt.id,
        token_ids=list(completion.token_ids),
        text=completion.text,
        first_seconds=metrics.first_token_latency,
        decode_seconds=metrics.last_token_ts - metrics.first_token_ts,
        finish_reason=completion.finish_reason,
        gaps=logit_gaps(top, dtype) if top is not None else None,
    )


def _draft_counters() -> Drafts:
    values = {metric.name: metric for metric in _llm.get_metrics() if metric.name.startswith("vllm:spec_decode_num_")}

    def count(name: str) -> int:
        metric = values.get(f"vllm:spec_decode_num_{name}")
        return metric.value if metric else 0

    positions = values.get("vllm:spec_decode_num_accepted_tokens_per_pos")
    return Drafts(
        count("drafts"), count("draft_tokens"), count("accepted_tokens"), list(positions.values) if positions else []
    )


def _difference(now: Drafts, before: Drafts) -> Drafts:
    previous = before.accepted_per_position or [0] * len(now.accepted_per_position)
    return Drafts(
        now.drafts - before.drafts,
        now.draft_tokens - before.draft_tokens,
        now.accepted_tokens - before.accepted_tokens,
        [a - b for a, b in zip(now.accepted_per_position, previous, strict=True)],
    )
