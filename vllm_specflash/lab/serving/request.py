"""One request of a soak: what is asked, how, and whether the client stays for the answer."""

import base64
import mimetypes
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_specflash.train.prompts import Prompt

# Pieces of a stream after which a client that leaves does so; 0 is before the first.
LEAVES_AFTER = (0, 0, 1, 2, 4, 8)


@dataclass(frozen=True)
class Request:
    """`arguments` are those of the client's chat.completions.create; `leaves_after` pieces, None to stay."""

    prompt_id: str
    arguments: dict[str, Any]
    leaves_after: int | None

    @property
    def greedy(self) -> bool:
        return self.arguments["temperature"] == 0


def draw_request(
    prompt: Prompt, rng: random.Random, model: str, max_tokens: int, abort_share: float, greedy_share: float
) -> Request:
    """A request for `prompt`: greedy or sampled (half of those seeded), some to be aborted."""
    arguments: dict[str, Any] = {"model": model, "messages": chat_messages(prompt), "max_tokens": max_tokens}
    if rng.random() < greedy_share:
        arguments["temperature"] = 0
    else:
        arguments |= {"temperature": 0.8, "top_p": 0.95}
        if rng.random() < 0.5:
            arguments["seed"] = rng.randrange(1000)
    # Token ids, so that answers can be compared with a reference token by token.
    arguments["extra_body"] = {"return_token_ids": True}
    leaves = rng.choice(LEAVES_AFTER) if rng.random() < abort_share else None
    return Request(prompt.id, arguments, leaves)


def chat_messages(prompt: Prompt) -> list[dict]:
    """Messages in OpenAI's format, pictures as data URLs."""

    def part(part: dict) -> dict:
        if part["type"] == "text":
            return part
        path = Path(part["path"])
        return image(data_url(path.read_bytes(), mimetypes.guess_type(path)[0] or "image/png"))

    def content(whole: str | list[dict]) -> str | list[dict]:
        return whole if isinstance(whole, str) else [part(one) for one in whole]

    return [{**message, "content": content(message["content"])} for message in prompt.messages]


def image(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
