"""Who runs when: repeats of all methods interleaved, so that a machine's slow drift hits every method alike."""

import json
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from pathlib import Path

from vllm_specflash.config import SpecFlashError
from vllm_specflash.lab.bench.console import Announce
from vllm_specflash.lab.bench.document import Document
from vllm_specflash.lab.bench.engine import Engine
from vllm_specflash.lab.bench.engine_setup import EngineSetup
from vllm_specflash.lab.bench.method import PLAIN, Method
from vllm_specflash.lab.bench.option import DTYPES, option
from vllm_specflash.lab.bench.prompts import load_task
from vllm_specflash.lab.bench.targets import Target
from vllm_specflash.train.prompts import Prompt

WARM_UP_TOKENS = 24
# How many prompts are tried for each that is kept, when long enough answers are wanted.
CANDIDATES = 4


@dataclass(frozen=True)
class Plan:
    """What is the same for all targets and methods."""

    repeats: int = option(5, "Passes of every method, interleaved.", min=1)
    prompts: int = option(8, "Prompts per task; as many as the largest batch are used at least.", min=1)
    min_tokens: int = option(64, "Pass over prompts whose plain answer is shorter; nothing is made to go on.", min=1)
    max_tokens: int = option(128, "Cut answers here.", min=1)
    dtype: str = option("bfloat16", "Of the targets: bfloat16, float16 or float32.", choices=DTYPES)
    max_model_len: int = option(2048, "Of the engines.", min=2)
    kv_cache_gib: float = option(1.0, "KV budget of every engine.", min=0.001)
    enforce_eager: bool = option(False, "Without compilation: for trying things out, never for figures.")
    ignore_eos: bool = option(False, "Go on to --max-tokens whatever an answer says: for targets that say nothing.")
    engine_args: str = option("{}", "More of vLLM's engine arguments, for every engine, as JSON.")

    def setup(self, target: Target, method: Method, max_num_seqs: int) -> EngineSetup:
        return EngineSetup(
            target=target.model,
            speculative_config=method.speculative_config,
            dtype=self.dtype,
            max_model_len=self.max_model_len,
            max_num_seqs=max_num_seqs,
            kv_cache_gib=self.kv_cache_gib,
            enforce_eager=self.enforce_eager,
            ignore_eos=self.ignore_eos,
            extra=_object(self.engine_args),
        )


def start_engines(setups: dict[str, EngineSetup], logs: Path, announce: Announce, at_once: int = 2) -> dict[str, Engine]:
    """Engines by name, all loaded, `at_once` of them loading at a time (loading is mostly one thread's work).

    Raises:
        EngineFailed: one did not start; the others are closed.
    """
    engines = {name: Engine(setup, logs / f"{name.replace('/', '-')}.log") for name, setup in setups.items()}
    waiting, loading = list(engines), {}
    try:
        while waiting or loading:
            while waiting and len(loading) < at_once:
                name = waiting.pop(0)
                announce(f"starting the engine of {name}")
                loading[engines[name].start()] = name
            done, _ = wait(loading, return_when=FIRST_COMPLETED)
            for future in done:
                name = loading.pop(future)
                facts = engines[name].result(future)
                announce(f"{name} is ready after {facts.start_seconds:.0f} s")
        for engine in engines.values():
            engine.settle()
    except BaseException:
        close_engines(engines)
        raise
    return engines


def close_engines(engines: dict[str, Engine]) -> None:
    for engine in engines.values():
        engine.stop()
    for engine in engines.values():
        engine.close()


class Benchmark:
    """Runs a plan on one target and records it.

    Args:
        plan, target: what to run.
        methods: compared with each other; plain vLLM among them.
        batch_sizes: requests at a time.
        document: where passes go; those already there are not repeated.
        announce: is told what happens.
        data: folder of the prompts.
        seconds: after so much measuring no further repeat begins; the first is always made.
    """

    def __init__(
        self,
        plan: Plan,
        methods: tuple[Method, ...],
        batch_sizes: tuple[int, ...],
        target: Target,
        document: Document,
        announce: Announce,
        data: Path,
        seconds: float,
    ):
        self.plan, self.methods, self.batch_sizes, self.target = plan, methods, batch_sizes, target
        self.document, self.announce, self.data, self.seconds = document, announce, data, seconds
        self.prompts: dict[str, list[Prompt]] = {}

    def missing(self) -> list[tuple[int, int, str, Method]]:
        """(repeat, batch size, task, method) still to run, in running order."""
        name = self.target.name
        return [
            (repeat, batch_size, task, method)
            for repeat in range(self.plan.repeats)
            for batch_size in self.batch_sizes
            for task in self.target.tasks
            # Who goes first changes from repeat to repeat.
            for method in _rotated(self.methods, repeat)
            if not self.document.has(name, task, batch_size, method.name, repeat)
        ]

    def run(self, logs: Path) -> None:
        """Everything that is missing, as far as the time allows.

        Raises:
            FileNotFoundError: a task has no prompts.
            EngineFailed: an engine did not start or died.
        """
        if not self.missing():
            return
        # A task without prompts is said before minutes are spent on engines.
        for task in self.target.tasks:
            load_task(task, self.data)
        setups = {f"{self.target.name}/{m.name}": self.plan.setup(self.target, m, max(self.batch_sizes)) for m in self.methods}
        engines = start_engines(setups, logs, self.announce)
        try:
            by_method = {method.name: engines[f"{self.target.name}/{method.name}"] for method in self.methods}
            self._prepare(by_method)
            self._measure(by_method)
            for method, engine in by_method.items():
                self.document.add_engine(self.target.name, method, engine.facts())
        finally:
            close_engines(engines)

    def _prepare(self, engines: dict[str, Engine]) -> None:
        for task in self.target.tasks:
            self.prompts[task] = self._chosen(task, engines[PLAIN])
            for batch_size in self.batch_sizes:
                if self.document.reference(self.target.name, task, batch_size) is None:
                    self.announce(f"{self.target.name}, {task}: plain vLLM's reference answers at batch {batch_size}")
                    done = engines[PLAIN].generate(self.prompts[task], batch_size, self.plan.max_tokens, logits=True)
                    self.document.add_reference(self.target.name, task, batch_size, done.outputs)
                for method, engine in engines.items():
                    self.announce(f"{self.target.name}, {task}: warming up {method} at batch {batch_size}")
                    engine.generate(self.prompts[task][:batch_size], batch_size, WARM_UP_TOKENS)

    def _chosen(self, task: str, plain: Engine) -> list[Prompt]:
        """Prompts whose answers are long enough by themselves, decided once and recorded."""
        plan, name = self.plan, self.target.name
        candidates = load_task(task, self.data)
        if self.document.prompts(name, task) is None:
            self.announce(f"{name}, {task}: choosing prompts with answers of {plan.min_tokens} tokens and more")
            wanted = max(plan.prompts, *self.batch_sizes)
            chosen = choose_prompts(candidates[: CANDIDATES * wanted], plain, wanted, plan.min_tokens, max(self.batch_sizes))
            if not chosen:
                raise ValueError(
                    f"No prompt of task {task!r} gets an answer of {plan.min_tokens} tokens from {name}: "
                    "ask for longer ones, or lower --min-tokens."
                )
            if len(chosen) < wanted:
                self.announce(f"{name}, {task}: only {len(chosen)} prompts have answers long enough")
            self.document.choose(name, task, chosen)
        return self.document.found_again(name, task, candidates)

    def _measure(self, engines: dict[str, Engine]) -> None:
        plan, name, began = self.plan, self.target.name, time.monotonic()
        for repeat, batch_size, task, method in self.missing():
            if repeat and time.monotonic() - began > self.seconds:
                self.announce("the time is up: what is missing can be run later with the same command")
                return
            self.announce(f"{name}, {task}, batch {batch_size}, repeat {repeat + 1} of {plan.repeats}: {method.name}")
            done = engines[method.name].generate(self.prompts[task], batch_size, plan.max_tokens)
            self.document.add(name, task, batch_size, method.name, repeat, done)


def choose_prompts(candidates: Sequence[Prompt], plain: Engine, wanted: int, min_tokens: int, batch_size: int) -> list[Prompt]:
    """The first `wanted` candidates that plain vLLM answers with at least `min_tokens` tokens."""
    chosen: list[Prompt] = []
    step = max(batch_size, wanted)
    for first in range(0, len(candidates), step):
        asked = candidates[first : first + step]
        answers = plain.generate(asked, batch_size, min_tokens)
        chosen += [prompt for prompt, output in zip(asked, answers.outputs, strict=True) if len(output.token_ids) >= min_tokens]
        if len(chosen) >= wanted:
            break
    return chosen[:wanted]


def _rotated(methods: tuple[Method, ...], by: int) -> tuple[Method, ...]:
    return methods[by % len(methods) :] + methods[: by % len(methods)]


def _object(text: str) -> dict:
    """A JSON object. Raises SpecFlashError for anything else."""
    try:
        given = json.loads(text)
    except json.JSONDecodeError:
        given = None
    if not isinstance(given, dict):
        raise SpecFlashError(f'--engine-args is {text!r}: give a JSON object, as in {{"max_num_seqs": 4}}.')
    return given
