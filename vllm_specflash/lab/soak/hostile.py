"""Malformed requests, what vLLM is documented to answer them with, and clients that send nothing else."""

import asyncio
import io
import json
import random
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from PIL import Image

from vllm_specflash.lab.serving.request import data_url, image

# What stands where a status would, when the server closed the connection or was not there.
NO_ANSWER = "no answer"


def _noise() -> bytes:
    """A small picture with nothing wrong."""
    file = io.BytesIO()
    Image.frombytes("RGB", (32, 32), random.Random(0).randbytes(3 * 32 * 32)).save(file, format="PNG")
    return file.getvalue()


def _png_of(width: int, height: int) -> bytes:
    """A picture that says it is that large, and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _asking(*parts: dict, text: str = "what?", **fields) -> dict:
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}], **fields}


PICTURE = image(data_url(_noise()))

# Fields of requests that get 4xx, from servers that take up to eight pictures in a prompt of fewer than 64k tokens.
MALFORMED = {
    "bad base64": _asking(image("data:image/png;base64,%%%not base64%%%")),
    "base64 of words": _asking(image(data_url(b"this is no picture"))),
    "empty picture": _asking(image(data_url(b""))),
    "picture cut short": _asking(image(PICTURE["image_url"]["url"][:200])),
    "huge picture": _asking(image(data_url(_png_of(5_000, 5_000)))),
    "picture without pixels": _asking(image(data_url(_png_of(0, 0)))),
    "data url without data": _asking(image("data:image/png")),
    "address that is none": _asking(image("pictures/scene.png")),
    "part of an unknown type": _asking({"type": "smell", "smell": "rose"}),
    "picture that is a number": _asking(image(7)),
    "too many pictures": _asking(*[PICTURE] * 9),
    "a video that is none": _asking({"type": "video_url", "video_url": {"url": "data:video/jpeg;base64,aa"}}),
    "messages that are a word": {"messages": "hello"},
    "no messages": {},
    "content that is a number": {"messages": [{"role": "user", "content": 7}]},
    "temperature that is a word": _asking(temperature="hot"),
    "negative max_tokens": _asking(max_tokens=-1),
    "n of none": _asking(n=0),
    "too many logprobs": _asking(logprobs=True, top_logprobs=10_000),
    "prompt longer than the model": _asking(text="a b " * 32_768),
    "an empty grammar": _asking(structured_outputs={"grammar": ""}),
    "a grammar that is none": _asking(structured_outputs={"regex": "(["}),
    "an unknown model": _asking(model="huge"),
}

# Stock vLLM 0.32 answers these with such a 5xx, though the fault is the client's; with a draft or without.
FAULTED_BY_VLLM = {
    "picture beyond PIL's own limit": (500, _asking(image(data_url(_png_of(30_000, 30_000))))),
    "file of the server": (500, _asking(image("file:///etc/passwd"))),
    "picture at an address that does not answer": (500, _asking(image("http://127.0.0.1:9/picture.png"))),
    "picture of text without base64": (501, _asking(image("data:image/png,abc"))),
}

# Bodies that are no request at all; 4xx.
BODIES = {
    "an empty body": b"",
    "a body cut short": b"{",
    "a list": b"[]",
    "bytes that are no text": b"\xff\xfe",
    "a word": b'"hello"',
}


@dataclass(frozen=True)
class Refusals:
    """What malformed requests got.

    Attributes:
        statuses: how often each HTTP status came, and NO_ANSWER where none did.
        wrong: "what was sent: status" of those that are not documented, with how often each came.
    """

    requests: int
    statuses: dict[str, int]
    wrong: dict[str, int]

    def __str__(self) -> str:
        came = ", ".join(f"{count} of {status}" for status, count in self.statuses.items())
        if not self.wrong:
            return f"{self.requests} malformed requests beside them, all refused as documented ({came})"
        examples = "; ".join(f"{what} ({count} times)" for what, count in self.wrong.items())
        wrong = sum(self.wrong.values())
        return f"{wrong} of {self.requests} malformed requests were not refused as documented: {examples}"


def bodies(model: str) -> dict[str, tuple[bytes, int | None]]:
    """Every malformed request to a server of `model`, with the 5xx that may come in place of a 4xx."""

    def body(fields: dict) -> bytes:
        return json.dumps({"model": model, "max_tokens": 8, **fields}).encode()

    malformed = {name: (body(fields), None) for name, fields in MALFORMED.items()}
    faulted = {name: (body(fields), status) for name, (status, fields) in FAULTED_BY_VLLM.items()}
    return malformed | faulted | {name: (content, None) for name, content in BODIES.items()}


async def run_hostile(
    address: str, model: str, count: int, seconds: float, timeout: float, alive: Callable[[], bool]
) -> Refusals:
    """`count` clients that go through all malformed requests for `seconds`, and end the round they are in.

    Args:
        timeout: seconds that an answer may take.
        alive: whether there still is a server to ask.
    """
    requests = bodies(model)
    statuses, wrong = Counter(), Counter()
    deadline = time.monotonic() + seconds

    async def one(client: aiohttp.ClientSession) -> None:
        while time.monotonic() < deadline:
            for name, (content, faulted) in requests.items():
                if not alive():
                    return
                status = await _status(client, content)
                statuses[status] += 1
                if not (status.startswith("4") or status == str(faulted)):
                    wrong[f"{name}: {status}"] += 1
                if status == NO_ANSWER:
                    # A server that is down would be asked thousands of times.
                    await asyncio.sleep(1)

    # A kept connection that the server closes just then would look like a missing answer.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(address, connector=connector, timeout=aiohttp.ClientTimeout(timeout)) as client:
        await asyncio.gather(*(one(client) for _ in range(count)))
    return Refusals(statuses.total(), dict(statuses.most_common()), dict(wrong.most_common()))


async def _status(client: aiohttp.ClientSession, content: bytes) -> str:
    headers = {"Content-Type": "application/json"}
    try:
        async with client.post("/v1/chat/completions", data=content, headers=headers) as answer:
            await answer.read()
            return str(answer.status)
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
        return NO_ANSWER
