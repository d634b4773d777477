"""Load a server, let it calm down, and compare its greedy answers with plain vLLM's."""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vllm_specflash.config import SIZINGS
from vllm_specflash.lab.bench.console import Announce
from vllm_specflash.lab.bench.engine import Engine
from vllm_specflash.lab.bench.engine_setup import EngineSetup
from vllm_specflash.lab.bench.identity import compare
from vllm_specflash.lab.bench.option import DTYPES, option
from vllm_specflash.lab.bench.records import Output
from vllm_specflash.lab.bench.targets import Target
from vllm_specflash.lab.serving.clients import TIMEOUT_SECONDS, Outcome, run_clients
from vllm_specflash.lab.serving.request import draw_request
from vllm_specflash.lab.serving.server import Server, ServerFailed
from vllm_specflash.lab.soak.hostile import Refusals, run_hostile
from vllm_specflash.lab.soak.memory import Sample, growth
from vllm_specflash.lab.soak.result import MIB, Held, SoakResult, count_errors
from vllm_specflash.train.prompts import Prompt

MODEL = "soaked"
SAMPLE_SECONDS = 2.0
KV_CACHE_USAGE = "vllm:kv_cache_usage_perc"
# vLLM frees what an aborted request held within a step or two.
CALM_SECONDS = 30.0
# What engine/v1/runner.py logs once where drafting fails.
DRAFT_FAILURE = "SpecFLASH could not draft"


@dataclass(frozen=True)
class SoakOptions:
    """How hard and how long."""

    minutes: float = option(10.0, "How long clients begin new requests.", min=0.001)
    clients: int = option(16, "Clients at a time, each with one request; 0: the hostile ones alone.", min=0)
    hostile: int = option(0, "Clients beside those that send malformed requests, one after the other.", min=0)
    prompts: int = option(60, "Different prompts, all tasks in turns.", min=1)
    max_tokens: int = option(96, "Cut answers here.", min=1)
    abort_share: float = option(0.2, "Share of requests whose client hangs up before the end.", min=0, max=1)
    greedy_share: float = option(0.5, "Share of greedy requests; of the others half have a seed.", min=0, max=1)
    kv_cache_mib: int = option(96, "KV budget of the server: small, so that requests are preempted.", min=1)
    max_model_len: int = option(1024, "Of the server.", min=2)
    dtype: str = option("float32", "In bfloat16 plain vLLM differs from itself.", choices=DTYPES)
    enforce_eager: bool = option(False, "Without compilation: starts sooner.")
    sizing: str = option("auto", "SpecFLASH's sizing; longest: draft whatever it costs here.", choices=SIZINGS)
    plain: bool = option(False, "Without SpecFLASH: tells what vLLM itself does under this load.")
    settle_minutes: float = option(2.0, "Memory growth is judged after this.", min=0)
    seed: int = option(0, "Of the clients' choices.")

    @property
    def most_requests(self) -> int:
        """That an engine runs at a time; hostile clients alone need one."""
        return max(1, self.clients)


def soak(target: Target, prompts: Sequence[Prompt], options: SoakOptions, logs: Path, announce: Announce) -> SoakResult:
    """Run it all.

    Raises:
        ServerFailed: the server did not start, or ended under load.
        EngineFailed: plain vLLM did not start or died.
    """
    announce(f"starting vllm serve {target.model}")
    with Server(target.model, _arguments(target, options), logs / "soak-server.log") as server:
        announce(f"{options.clients} clients for {options.minutes:g} minutes")
        began = time.monotonic()
        outcomes, malformed, watched = asyncio.run(_load(server, prompts, options, announce))
        seconds = time.monotonic() - began
        held = _wait_until_calm(server)
        preemptions = server.metric("vllm:num_preemptions")
        drafts = server.metric("vllm:spec_decode_num_drafts")
        accepted = server.metric("vllm:spec_decode_num_accepted_tokens")
    reference = _reference(target, prompts, options, logs, announce)
    tasks = {prompt.id: prompt.task for prompt in prompts}
    done = [outcome for outcome in outcomes if not outcome.aborted and not outcome.error]
    return SoakResult(
        seconds=seconds,
        requests=len(outcomes),
        completed=len(done),
        aborted=sum(outcome.aborted for outcome in outcomes),
        by_kind=_kinds(outcomes, tasks),
        errors=count_errors(outcomes),
        draft_failures=server.log.read_text(encoding="utf-8", errors="replace").count(DRAFT_FAILURE),
        generated_tokens=sum(len(outcome.token_ids) for outcome in outcomes),
        held=held,
        preemptions=preemptions,
        peak_kv_cache=max(watched.kv_cache, default=0.0),
        tokens_per_step=1 + accepted / max(1.0, drafts),
        memory=watched.memory,
        memory_growth=growth(watched.memory, 60 * options.settle_minutes),
        agreement=compare(reference, [_output(outcome) for outcome in done if outcome.request.greedy]),
        malformed=malformed if options.hostile else None,
    )


def _arguments(target: Target, options: SoakOptions) -> list[str]:
    given = ["--served-model-name", MODEL, "--dtype", options.dtype, "--seed", "0"]
    given += ["--max-model-len", str(options.max_model_len), "--max-num-seqs", str(options.most_requests)]
    given += ["--kv-cache-memory-bytes", str(options.kv_cache_mib * MIB), "--limit-mm-per-prompt", '{"image": 8}']
    if not options.plain:
        given += ["--speculative-config", json.dumps(target.speculation(options.sizing))]
    return given + (["--enforce-eager"] if options.enforce_eager else [])


@dataclass
class _Watched:
    """Seen every few seconds: (seconds, resident bytes), and the share of the KV cache in use."""

    memory: list[Sample] = field(default_factory=list)
    kv_cache: list[float] = field(default_factory=list)


async def _load(
    server: Server, prompts: Sequence[Prompt], options: SoakOptions, announce: Announce
) -> tuple[list[Outcome], Refusals, _Watched]:
    watched = _Watched()
    began = time.monotonic()

    async def watch() -> None:
        while True:
            now = time.monotonic() - began
            watched.memory.append((round(now, 1), server.resident_bytes()))
            if len(watched.memory) % 30 == 1:
                announce(f"after {now:.0f} s: {watched.memory[-1][1] / MIB:.0f} MiB")
            # A server that does not answer shows in the clients' outcomes.
            with suppress(OSError, ServerFailed):
                watched.kv_cache.append(await asyncio.to_thread(server.metric, KV_CACHE_USAGE))
            await asyncio.sleep(SAMPLE_SECONDS)

    def draw(rng):
        return draw_request(
            rng.choice(prompts), rng, MODEL, options.max_tokens, options.abort_share, options.greedy_share
        )

    def alive() -> bool:
        return server.alive

    seconds = 60 * options.minutes
    outcomes, malformed = await asyncio.gather(
        run_clients(server.address, options.clients, draw, seconds, options.seed, [watch], alive),
        run_hostile(server.address, MODEL, options.hostile, seconds, TIMEOUT_SECONDS, alive),
    )
    return outcomes, malformed, watched


def _wait_until_calm(server: Server) -> Held:
    """What the server holds once it holds nothing, or after CALM_SECONDS."""
    deadline = time.monotonic() + CALM_SECONDS
    while True:
        held = Held(
            running=server.metric("vllm:num_requests_running"),
            waiting=server.metric("vllm:num_requests_waiting"),
            kv_cache=server.metric(KV_CACHE_USAGE),
        )
        if held.nothing or time.monotonic() > deadline:
            return held
        time.sleep(1)


def _reference(
    target: Target, prompts: Sequence[Prompt], options: SoakOptions, logs: Path, announce: Announce
) -> dict[str, Output]:
    """Plain vLLM's greedy answer to every prompt."""
    announce("plain vLLM's answers to the same prompts")
    setup = EngineSetup(
        target.model, dtype=options.dtype, max_model_len=options.max_model_len, max_num_seqs=options.most_requests,
        enforce_eager=options.enforce_eager,
    )  # fmt: skip
    with Engine(setup, logs / "soak-plain.log") as plain:
        plain.result(plain.start())
        answers = plain.generate(prompts, len(prompts), options.max_tokens, logits=True)
    return {output.prompt_id: output for output in answers.outputs}


def _output(outcome: Outcome) -> Output:
    return Output(outcome.request.prompt_id, outcome.token_ids, outcome.text, 0.0, 0.0, outcome.finish_reason)


def _kinds(outcomes: Sequence[Outcome], tasks: dict[str, str]) -> dict[str, int]:
    kinds = dict.fromkeys([*tasks.values(), "greedy"], 0)
    for outcome in outcomes:
        kinds[tasks[outcome.request.prompt_id]] += 1
        kinds["greedy"] += outcome.request.greedy
    return kinds
