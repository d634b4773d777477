"""Prompts that the target writes itself: sampled user's turns after its chat template's opening.

A chat model has read the turns of users as well as its own: asked to go on where a turn begins, it writes one. What it
writes covers the whole of the language it was tuned on, with no data set at hand (arXiv 2406.08464, Magpie).
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vllm_specflash.config import SpecFlashError
from vllm_specflash.train.families import Family
from vllm_specflash.train.images import read_image
from vllm_specflash.train.option import option
from vllm_specflash.train.prompts import Prompt
from vllm_specflash.train.skipped import Unusable, skip

PREFIX = "self-"
# Stands for the turn while the template is cut open around it.
MARK = "\x07turn\x07"
# Two turns that begin with the same so many letters and digits count as one.
SAME_BEGINNING = 64
# zlib halves ordinary English; what shrinks further says the same thing over and over.
MOST_COMPRESSION = 3.0
# So many draws in a row without one usable turn: the target does not write any.
FRUITLESS = 8


@dataclass(frozen=True)
class SelfPromptOptions:
    """Prompts of the target's own making."""

    self_prompts: int = option(0, "Prompts that the target writes itself; 0: none.", min=0)
    self_temperature: float = option(0.9, "Temperature at which it writes them.", min=0)
    self_max_tokens: int = option(200, "Longest of them, in tokens; longer ones are left out.", min=1)


def cut_template(render, images: int = 0) -> tuple[str, str]:
    """What a chat template puts before and after the text of a user's first turn, which follows `images` images.

    `render(messages)` is the template's text, without the opening of an answer.
    """
    content = [*[{"type": "image"}] * images, {"type": "text", "text": MARK}] if images else MARK
    before, mark, after = render([{"role": "user", "content": content}]).partition(MARK)
    if not mark:
        raise SpecFlashError("The target's chat template does not show the user's text: give prompts with --prompts.")
    return before, after.strip() or after or "\n"


def flaw(turn: str, finished: bool, special: Iterable[str]) -> str | None:
    """Why a sampled turn is no prompt; None for a good one."""
    if not finished:
        return "a turn of the target's own has no end"
    if len(re.findall(r"\w+", turn)) < 2:
        return "a turn of the target's own has fewer than two words"
    if any(token in turn for token in special):
        return "a turn of the target's own has control tokens in it"
    data = turn.encode()
    if len(data) > 80 and len(data) > MOST_COMPRESSION * len(zlib.compress(data)):
        return "a turn of the target's own repeats itself"
    return None


def beginning(turn: str) -> str:
    """What tells one turn from another: its first letters and digits."""
    return re.sub(r"[\W_]+", "", turn.lower())[:SAME_BEGINNING]


class SelfPrompts:
    """Goes on from the prompts of earlier runs, which lie beside their answers.

    Attributes:
        remaining: prompts still to be written and answered.
    """

    def __init__(self, options: SelfPromptOptions, family: Family, answered: Iterable[Prompt], images: list[Path]):
        self.options, self.images = options, images
        earlier = [prompt for prompt in answered if prompt.id.startswith(PREFIX)]
        self.remaining = max(options.self_prompts - len(earlier), 0)
        self._number = 1 + max((int(prompt.id.removeprefix(PREFIX)) for prompt in earlier), default=-1)
        self._seen = {beginning(prompt.text) for prompt in earlier}
        self._opening, self._closing = cut_template(family.render, bool(images))
        self._special = [str(token) for token in family.tokenizer.added_tokens_decoder.values() if token.special]
        self._opening_ids = family.tokenizer(self._opening, add_special_tokens=False)["input_ids"]

    def batches(self, llm, size: int, skipped: Counter) -> Iterator[list[Prompt]]:
        """Up to `size` prompts at a time until none remain; what was left out is counted in `skipped`.

        Raises:
            SpecFlashError: the target does not write usable turns.
        """
        fruitless = 0
        while self.remaining:
            kept = list(self._draw(llm, size, skipped))[: self.remaining]
            fruitless = 0 if kept else fruitless + 1
            if fruitless == FRUITLESS:
                raise SpecFlashError("The target writes no usable prompts of its own: give some with --prompts.")
            self.remaining -= len(kept)
            if kept:
                yield kept

    def _draw(self, llm, size: int, skipped: Counter) -> Iterator[Prompt]:
        from vllm import SamplingParams

        # The closing may be a special token, which skip_special_tokens would hide from the search for it.
        parameters = SamplingParams(
            temperature=self.options.self_temperature, max_tokens=self.options.self_max_tokens, stop=[self._closing],
            skip_special_tokens=False,
        )  # fmt: skip
        asked = list(self._openings(size, skipped))
        outputs = llm.generate([prompt for prompt, _ in asked], parameters, use_tqdm=False)
        for (_, image), output in zip(asked, outputs, strict=True):
            turn, finished = output.outputs[0].text.strip(), output.outputs[0].finish_reason == "stop"
            reason = flaw(turn, finished, self._special)
            if reason is None and beginning(turn) in self._seen and image is None:
                reason = "a turn of the target's own begins like another"
            if reason is not None:
                skipped[reason] += 1
                continue
            self._seen.add(beginning(turn))
            yield self._prompt(turn, image)

    def _openings(self, size: int, skipped: Counter) -> Iterator[tuple[dict, Path | None]]:
        """What vLLM is asked to go on with, and the image in it."""
        for place in range(size):
            if not self.images:
                yield {"prompt_token_ids": self._opening_ids}, None
                continue
            path = self.images[(self._number + place) % len(self.images)]
            try:
                yield {"prompt_token_ids": self._opening_ids, "multi_modal_data": {"image": read_image(path)}}, path
            except Unusable as error:
                skip(skipped, str(path), error)

    def _prompt(self, turn: str, image: Path | None) -> Prompt:
        content = turn if image is None else [{"type": "image", "path": str(image)}, {"type": "text", "text": turn}]
        self._number += 1
        task = "self" if image is None else "images"
        return Prompt(f"{PREFIX}{self._number - 1:06d}", task, [{"role": "user", "content": content}])

