"""One vLLM engine per process, so that several stay loaded side by side and take turns.

Two engines in one process would share OpenMP threads, compile caches and vLLM's global state. An idle engine here waits
on a pipe and burns no CPU, which is what lets repeats of different methods be interleaved.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from vllm_specflash.config import first_sentence
from vllm_specflash.engine.synthetic import ALLOWED
from vllm_specflash.lab.bench.identity import logit_gaps
from vllm_specflash.lab.bench.probe import PROBE
from vllm_specflash.lab.bench.records import Drafts, Output, Pass, Steps, StepTotals
from vllm_specflash.train.prompts import Prompt
from vllm_specflash.train.startup import cause, why_not

GIB = 2**30
# vLLM's processes, where it has several, poll each other this long after their last message before they sleep.
POLLING_SECONDS = 1.2
STOP_SECONDS = 10


@dataclass(frozen=True)
class EngineSetup:
    """How an engine is built; everything but `speculative_config` is the same for all that are compared."""

    target: str
    speculative_config: dict[str, Any] | None = None
    dtype: str = "bfloat16"
    max_model_len: int = 2048
    max_num_seqs: int = 8
    kv_cache_gib: float = 1.0
    enforce_eager: bool = False
    max_images: int = 8
    ignore_eos: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def engine_args(self) -> dict[str, Any]:
        return {
            "model": self.target,
            "speculative_config": self.speculative_config,
            "dtype": self.dtype,
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs,
            "kv_cache_memory_bytes": int(self.kv_cache_gib * GIB),
            "enforce_eager": self.enforce_eager,
            "limit_mm_per_prompt": {"image": self.max_images},
            # A repeat must do the work of the first time.
            "enable_prefix_caching": False,
            # An image seen before must be processed again, too.
            "mm_processor_cache_gb": 0,
            "disable_log_stats": False,
            # Where logprobs are asked for, give logits: ties are judged in steps of the logit itself.
            "logprobs_mode": "raw_logits",
            "worker_extension_cls": PROBE,
            "seed": 0,
            **self.extra,
        }


@dataclass(frozen=True)
class EngineFacts:
    """What is known about a started engine."""

    start_seconds: float
    threads: int
    resident_bytes: int
    kv_bytes_per_slot: float
    slots: int


class EngineFailed(RuntimeError):
    """An engine process gave up; the message is one sentence with vLLM's own cause and the log's place."""


class Engine:
    """Handle of an engine in a process of its own; its output goes to `log`."""

    def __init__(self, setup: EngineSetup, log: Path):
        self.setup = setup
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._process = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))

    def start(self) -> "Future[EngineFacts]":
        """Begin loading; the result is there when the engine can answer."""
        return self._process.submit(_start, self.setup, str(self.log))

    def result(self, future: Future) -> Any:
        """The future's result.

        Raises:
            EngineFailed: the process died or raised.
        """
        try:
            return future.result()
        except BrokenProcessPool:
            raise EngineFailed(self._why("its process died")) from None
        except Exception as error:
            raise EngineFailed(self._why(f"{type(error).__name__}: {first_sentence(error)}")) from error

    def settle(self) -> None:
        """Measure anew what the engine measures at its start; for when all others are idle."""
        self.result(self._process.submit(_settle))

    def generate(self, prompts: Sequence[Prompt], batch_size: int, max_tokens: int, logits: bool = False) -> Pass:
        """Answers to the prompts, greedily, `batch_size` at a time."""
        return self.result(self._process.submit(_generate, list(prompts), batch_size, max_tokens, logits, self.setup.ignore_eos))

    def facts(self) -> EngineFacts:
        """As `start` gave them, memory as it is now."""
        return self.result(self._process.submit(_facts))

    def close(self) -> None:
        """End the process, and those that vLLM started from it."""
        processes = list((self._process._processes or {}).values())
        self.stop()
        self._process.shutdown(wait=False)
        for process in processes:
            process.join(timeout=STOP_SECONDS)
            if process.is_alive():
                process.terminate()
                process.join()

    def stop(self) -> None:
        """Begin to shut the engine down; `close` waits for it."""
        try:
            self._process.submit(_stop)
        except (BrokenProcessPool, RuntimeError):
            # It died, or was closed: nothing is left to stop.
            pass

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _why(self, seen: str) -> str:
        """One sentence with vLLM's own cause, where the log has one, or with what was seen from here."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        return why_not(self.setup.target, cause(text) or seen, self.log)


# --- inside the engine's process ---------------------------------------------------------------------------------

_llm = None
_start_seconds = 0.0


def _start(setup: EngineSetup, log: str) -> EngineFacts:
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
    return _facts()


def _one_process_on_cpus() -> None:
    """Unless the user says otherwise, keep a CPU engine's scheduler and worker in this one process.

    vLLM's default is a process for each. They poll each other for a second after every message, which would
    disturb the engine whose turn is next, and on few cores leave the model fewer threads.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


def _stop() -> None:
    global _llm
    if _llm is not None:
        _llm.llm_engine.engine_core.shutdown()
        _llm = None


def _settle() -> None:
    _llm.collective_rpc("bench_settle")


def _facts() -> EngineFacts:
    memory = _llm.collective_rpc("bench_memory")[0]
    memory.pop("pid")
    return EngineFacts(start_seconds=_start_seconds, threads=_llm.collective_rpc("bench_threads")[0], **memory)


def _generate(prompts: list[Prompt], batch_size: int, max_tokens: int, logits: bool, ignore_eos: bool) -> Pass:
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
    from PIL import Image

    def part(part: dict) -> dict:
        return part if part["type"] == "text" else {"type": "image_pil", "image_pil": Image.open(part["path"]).convert("RGB")}

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
