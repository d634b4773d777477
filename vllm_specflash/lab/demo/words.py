"""English for the demo world: articles, numbers, places and lists."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from vllm_specflash.lab.demo.pictograms import NAMES

ROWS = ("top", "middle", "bottom")
ACROSS = ("on the left", "in the center", "on the right")
PLACES = [
    "top left", "top center", "top right", "middle left", "center", "middle right", "bottom left", "bottom center",
    "bottom right",
]  # fmt: skip
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_PLURAL = {"grapes", "scissors"}
_SOME = {"grapes", "scissors", "bread", "cheese", "corn", "lightning", "coffee"}
_AN = {name for name in NAMES if name[0] in "aeiou"} - {"unicorn"}


def a(name: str) -> str:
    """With its article: "a dog", "an owl", "some grapes"."""
    if name in _SOME:
        return f"some {name}"
    return f"an {name}" if name in _AN else f"a {name}"


def be(name: str) -> str:
    return "are" if name in _PLURAL else "is"


def was(name: str) -> str:
    return "were" if name in _PLURAL else "was"


def verb(name: str, stem: str) -> str:
    """Third person of a regular verb: "moves", or "move" for scissors."""
    return stem if name in _PLURAL else f"{stem}s"


def at(cell: int) -> str:
    """ "at the top left", "in the center"."""
    return "in the center" if cell == 4 else f"at the {PLACES[cell]}"


def upper(text: str) -> str:
    return text[0].upper() + text[1:]


def listing(parts: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def objects(count: int) -> str:
    """ "one object", "three objects"."""
    return f"{NUMBERS[count]} object{'' if count == 1 else 's'}"


_SYNONYMS = {"picture": ("picture", "image", "photo"), "clip": ("clip", "video")}
_KINDS = {word: words for words in _SYNONYMS.values() for word in words}


def rephrase(request: str, rng: np.random.Generator) -> str:
    """The same request as another person might put it: now and then another word for the picture, or politely."""
    if rng.random() < 0.4:
        request = re.sub(rf"\b({'|'.join(_KINDS)})\b", lambda m: str(rng.choice(_KINDS[m[1]])), request)
    if rng.random() < 0.8:
        return request
    inner = request[0].lower() + request[1:]
    if request.endswith("?"):
        return f"{rng.choice(['Tell me:', 'Please tell me:'])} {inner}"
    return f"Please {inner}" if rng.random() < 0.5 else f"Could you {inner.removesuffix('.')}?"


def ask(requests: dict[str, Callable[[Any], str]], shown, rng: np.random.Generator) -> tuple[str, str]:
    """One of the requests, rephrased, and the answer to it."""
    request = list(requests)[rng.integers(len(requests))]
    return rephrase(request, rng), requests[request](shown)
