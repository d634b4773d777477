"""Speed behind `vllm serve`, on the prompts of a finished benchmark: what of the offline speed-up reaches clients."""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from openai import AsyncOpenAI

from vllm_specflash.config import METHOD
from vllm_specflash.lab.bench.console import Announce
from vllm_specflash.lab.bench.document import Document
from vllm_specflash.lab.bench.engine_setup import GIB
from vllm_specflash.lab.bench.identity import first_difference
from vllm_specflash.lab.bench.method import PLAIN, Method, parse_method
from vllm_specflash.lab.bench.option import option
from vllm_specflash.lab.bench.prompts import load_task
from vllm_specflash.lab.bench.schedule import Plan
from vllm_specflash.lab.bench.summary import Spread, speed_up
from vllm_specflash.lab.bench.targets import Target
from vllm_specflash.lab.serving.clients import TIMEOUT_SECONDS, Outcome, ask
from vllm_specflash.lab.serving.request import Request, chat_messages
from vllm_specflash.lab.serving.server import Server
from vllm_specflash.train.prompts import Prompt

MODEL = "served"
# vLLM's processes poll each other this long after their last message; the next server's turn comes after.
QUIET_SECONDS = 2.0


@dataclass(frozen=True)
class ServedOptions:
    """How many ask, and how often."""

    clients: int = option(8, "Clients at a time; compared with the benchmark's figures at this batch size.", min=1)
    repeats: int = option(3, "Passes of plain vLLM and of SpecFLASH, in turns.", min=1)


@dataclass(frozen=True)
class ServedPass:
    """All prompts of a task once.

    Attributes:
        decode: seconds per output token after the first, every token counting the same.
        end_to_end: seconds per output token, all requests together.
        first: median seconds to the first token.
        token_ids: answers by prompt id.
    """

    decode: float
    end_to_end: float
    first: float
    token_ids: dict[str, list[int]]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], seconds: float) -> "ServedPass":
        """Raises ValueError where a request failed."""
        failed = [outcome.error for outcome in outcomes if outcome.error]
        if failed:
            count = f"{len(failed)} of {len(outcomes)}"
            raise ValueError(f"{count} requests failed, see the server's log; first: {failed[0]}")
        tokens = sum(len(outcome.token_ids) for outcome in outcomes)
        return cls(
            decode=sum(o.last - o.first for o in outcomes) / max(1, tokens - len(outcomes)),
            end_to_end=seconds / tokens,
            first=median(outcome.first - outcome.began for outcome in outcomes),
            token_ids={outcome.request.prompt_id: outcome.token_ids for outcome in outcomes},
        )


@dataclass(frozen=True)
class ServedRow:
    """One task: speed-ups over plain vLLM's server, and those of the benchmark at the same batch size."""

    target: str
    task: str
    clients: int
    decode_speed_up: Spread
    end_to_end_speed_up: Spread
    offline_decode: float | None
    offline_end_to_end: float | None
    plain_first_ms: float
    first_ms: float
    identical: str


def measure_served(
    document: Document, target: Target, options: ServedOptions, data: Path, logs: Path, announce: Announce
) -> list[ServedRow]:
    """Both servers loaded side by side, passes in turns.

    Raises:
        ServerFailed: one did not start.
        ValueError: the benchmark has no prompts for the target, or a request failed.
    """
    plan = Plan(**document.data["settings"]["plan"])
    prompts = {task: _prompts(document, target, task, data) for task in target.tasks}
    methods = (Method(PLAIN, None), parse_method(METHOD, target.draft))
    passes: dict[tuple[str, str], list[ServedPass]] = {}
    with ExitStack() as stack:
        servers = {}
        for method in methods:
            announce(f"starting vllm serve {target.name}, {method.name}")
            log = logs / f"served-{target.name}-{method.name}.log"
            servers[method.name] = stack.enter_context(Server(target.model, _arguments(plan, method, options), log))
        for task, asked in prompts.items():
            for server in servers.values():
                _one_pass(server, asked, options.clients, plan.max_tokens)
            for repeat in range(options.repeats):
                for method in methods if repeat % 2 == 0 else methods[::-1]:
                    announce(f"{target.name}, {task}, {options.clients} clients, repeat {repeat + 1}: {method.name}")
                    time.sleep(QUIET_SECONDS)
                    done = _one_pass(servers[method.name], asked, options.clients, plan.max_tokens)
                    passes.setdefault((task, method.name), []).append(done)
    cells = [(target.name, task, options.clients) for task in prompts]
    return [_row(document, cell, passes[cell[1], PLAIN], passes[cell[1], METHOD]) for cell in cells]


def _prompts(document: Document, target: Target, task: str, data: Path) -> list[Prompt]:
    if not document.prompts(target.name, task):
        where = f"{document.path} has no prompts of task {task!r} for {target.name}"
        raise ValueError(f"{where}: name one that was measured.")
    return document.found_again(target.name, task, load_task(task, data))


def _arguments(plan: Plan, method: Method, options: ServedOptions) -> list[str]:
    """The server that EngineSetup describes for offline engines."""
    given = ["--served-model-name", MODEL, "--dtype", plan.dtype, "--max-model-len", str(plan.max_model_len)]
    given += ["--max-num-seqs", str(options.clients), "--kv-cache-memory-bytes", str(int(plan.kv_cache_gib * GIB))]
    given += ["--limit-mm-per-prompt", json.dumps({"image": 8}), "--no-enable-prefix-caching", "--seed", "0"]
    given += ["--mm-processor-cache-gb", "0"] + (["--enforce-eager"] if plan.enforce_eager else [])
    return given + (["--speculative-config", json.dumps(method.speculative_config)] if method.is_specflash else [])


def _one_pass(server: Server, prompts: Sequence[Prompt], clients: int, max_tokens: int) -> ServedPass:
    arguments = {"model": MODEL, "temperature": 0, "max_tokens": max_tokens, "extra_body": {"return_token_ids": True}}
    requests = [Request(p.id, {**arguments, "messages": chat_messages(p)}, None) for p in prompts]
    began = time.monotonic()
    outcomes = asyncio.run(_all(server.address, requests, clients))
    return ServedPass.of(outcomes, time.monotonic() - began)


async def _all(address: str, requests: Sequence[Request], clients: int) -> list[Outcome]:
    free = asyncio.Semaphore(clients)
    async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_SECONDS) as client:

        async def one(request: Request) -> Outcome:
            async with free:
                return await ask(client, request)

        return await asyncio.gather(*map(one, requests))


def _row(
    document: Document, cell: tuple[str, str, int], plain: list[ServedPass], ours: list[ServedPass]
) -> ServedRow:
    names = ("target", "task", "batch_size", "method")
    found = [row for row in document.data["summary"] if tuple(row[name] for name in names) == (*cell, METHOD)]
    offline = found[0] if found else None
    same = [first_difference(tokens, ours[0].token_ids[name]) is None for name, tokens in plain[0].token_ids.items()]
    return ServedRow(
        target=cell[0],
        task=cell[1],
        clients=cell[2],
        decode_speed_up=speed_up([p.decode for p in plain], [p.decode for p in ours]),
        end_to_end_speed_up=speed_up([p.end_to_end for p in plain], [p.end_to_end for p in ours]),
        offline_decode=offline and offline["decode_speed_up"]["median"],
        offline_end_to_end=offline and offline["end_to_end_speed_up"]["median"],
        plain_first_ms=1e3 * median(p.first for p in plain),
        first_ms=1e3 * median(p.first for p in ours),
        identical=f"{sum(same)}/{len(same)}",
    )

