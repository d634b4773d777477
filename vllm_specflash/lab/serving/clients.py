"""Clients that ask one request after the other until the time is up."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from openai import AsyncOpenAI

from vllm_specflash.lab.serving.request import Request

# Longer than any answer takes, even where another program has the processor.
TIMEOUT_SECONDS = 600


@dataclass
class Outcome:
    """What came of a request.

    Attributes:
        token_ids: as far as they came.
        aborted: the client left.
        error: in one line; None where all went well.
        began, first, last: time.monotonic() when it was asked, and of its first and last piece with tokens.
    """

    request: Request
    token_ids: list[int]
    text: str = ""
    finish_reason: str | None = None
    aborted: bool = False
    error: str | None = None
    began: float = 0.0
    first: float = 0.0
    last: float = 0.0


async def ask(client: AsyncOpenAI, request: Request) -> Outcome:
    """The answer, streamed; an error is an outcome like others."""
    outcome = Outcome(request, [], began=time.monotonic())
    try:
        stream = await client.chat.completions.create(**request.arguments, stream=True)
        pieces = 0
        if request.leaves_after == 0:
            return await _leave(stream, outcome)
        async for piece in stream:
            for choice in piece.choices:
                if getattr(choice, "token_ids", None):
                    outcome.last = time.monotonic()
                    outcome.first = outcome.first or outcome.last
                outcome.token_ids += getattr(choice, "token_ids", None) or []
                outcome.text += choice.delta.content or ""
                outcome.finish_reason = choice.finish_reason or outcome.finish_reason
            pieces += bool(piece.choices)
            if request.leaves_after == pieces and outcome.finish_reason is None:
                return await _leave(stream, outcome)
        if outcome.finish_reason not in ("stop", "length"):
            outcome.error = f"the stream ended with finish_reason {outcome.finish_reason!r}"
    except Exception as error:
        outcome.error = f"{type(error).__name__}: {error}"
    return outcome


async def _leave(stream, outcome: Outcome) -> Outcome:
    await stream.close()
    outcome.aborted = True
    return outcome


async def run_clients(
    address: str,
    count: int,
    draw: Callable[[random.Random], Request],
    seconds: float,
    seed: int,
    beside: Sequence[Callable[[], Awaitable[None]]] = (),
    alive: Callable[[], bool] = lambda: True,
) -> list[Outcome]:
    """`count` clients at once, each with random numbers of its own, for `seconds`; all answers begun are waited for.

    Args:
        draw: the next request of a client.
        beside: coroutines to run until the clients are done.
        alive: whether there still is a server to ask.
    """
    outcomes: list[Outcome] = []
    # Errors must show, so nothing is asked twice.
    client = AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_SECONDS)
    deadline = time.monotonic() + seconds

    async def one(number: int) -> None:
        rng = random.Random(f"{seed}/{number}")
        while alive() and time.monotonic() < deadline:
            outcome = await ask(client, draw(rng))
            outcomes.append(outcome)
            if outcome.error:
                # A server that is down would be asked thousands of times.
                await asyncio.sleep(1)

    companions = [asyncio.create_task(companion()) for companion in beside]
    try:
        await asyncio.gather(*map(one, range(count)))
    finally:
        for companion in companions:
            companion.cancel()
        await asyncio.gather(*companions, return_exceptions=True)
        await client.close()
    return outcomes
