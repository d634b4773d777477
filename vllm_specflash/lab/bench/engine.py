"""One vLLM engine per process, so that several stay loaded side by side and take turns.

Two engines in one process would share OpenMP threads, compile caches and vLLM's global state. An idle engine here waits
on a pipe and burns no CPU, which is what lets repeats of different methods be interleaved.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from vllm_specflash.config import first_sentence
from vllm_specflash.lab.bench import engine_process
from vllm_specflash.lab.bench.engine_setup import EngineFacts, EngineSetup
from vllm_specflash.lab.bench.records import Pass
from vllm_specflash.train.prompts import Prompt
from vllm_specflash.train.startup import cause, why_not

STOP_SECONDS = 10


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
        return self._process.submit(engine_process.start, self.setup, str(self.log))

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
        self.result(self._process.submit(engine_process.settle))

    def generate(self, prompts: Sequence[Prompt], batch_size: int, max_tokens: int, logits: bool = False) -> Pass:
        """Answers to the prompts, greedily, `batch_size` at a time."""
        done = self._process.submit(
            engine_process.generate, list(prompts), batch_size, max_tokens, logits, self.setup.ignore_eos
        )
        return self.result(done)

    def facts(self) -> EngineFacts:
        """As `start` gave them, memory as it is now."""
        return self.result(self._process.submit(engine_process.facts))

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
            self._process.submit(engine_process.stop)
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
