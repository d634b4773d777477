"""The lab's own server and clients: what they draw and send, and that nothing which goes wrong passes for an answer."""

import asyncio
import random
import sys

import pytest

from vllm_specflash.lab.serving.clients import ask, run_clients
from vllm_specflash.lab.serving.request import Request, draw_request
from vllm_specflash.lab.serving.server import Server, ServerFailed
from vllm_specflash.train.prompts import Prompt


def test_requests_are_of_every_kind():
    prompt = Prompt("a", "words", [{"role": "user", "content": "hello"}])
    rng = random.Random(0)
    drawn = [draw_request(prompt, rng, "m", 16, abort_share=0.25, greedy_share=0.5) for _ in range(400)]
    greedy = sum(request.greedy for request in drawn)
    aborted = sum(request.leaves_after is not None for request in drawn)
    assert 150 < greedy < 250 and 60 < aborted < 140
    assert {"seed" in request.arguments for request in drawn if not request.greedy} == {True, False}


def test_a_server_that_ends_is_reported_with_its_last_words(tmp_path):
    server = Server("nothing", [], tmp_path / "log.txt")
    server._command = [sys.executable, "-c", "print('no such model'); raise SystemExit(3)"]
    with pytest.raises(ServerFailed, match="vllm serve ended with 3.\n.*log.txt:\nno such model"):
        server.__enter__()


def test_a_server_finds_its_folders_from_where_the_user_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server = Server("nothing", [], tmp_path / "logs" / "log.txt")
    server._command = [sys.executable, "-c", "import os; print('in', os.getcwd()); raise SystemExit(3)"]
    with pytest.raises(ServerFailed, match=f"log.txt:\nin {tmp_path}$"):
        server.__enter__()


def test_a_server_that_is_not_there_is_an_error():
    request = Request("a", {"model": "m", "messages": [], "temperature": 0}, None)
    (outcome,) = asyncio.run(run_clients("http://127.0.0.1:9", 1, lambda rng: request, 0.01, 0))
    assert outcome.error.startswith("APIConnectionError") and not outcome.aborted


def test_a_stream_that_ends_without_a_reason_is_an_error():
    class Cut:
        """A client whose server closes the connection after the headers."""

        async def create(self, **_):
            return self

        def __aiter__(self):
            return self

        async def __anext__(self):
            raise StopAsyncIteration

        @property
        def chat(self):
            return self

        completions = chat

    outcome = asyncio.run(ask(Cut(), Request("a", {}, None)))
    assert outcome.error == "the stream ended with finish_reason None"
