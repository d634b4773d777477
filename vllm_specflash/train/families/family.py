"""The interface every family implements, and what they share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from vllm_specflash.train.prompts import Prompt


@dataclass
class Encoding:
    """A conversation as the target reads it: ids [L], spans as (start, length), and the pixels' tensors."""

    input_ids: Tensor
    spans: list[tuple[int, int]] = field(default_factory=list)
    pixels: dict[str, Tensor] = field(default_factory=dict)


def placeholder_runs(input_ids: Tensor, token_id: int) -> list[tuple[int, int]]:
    """(start, end) of every run of positions that hold `token_id`."""
    runs = []
    for is_visual, run in groupby(enumerate(input_ids.tolist()), key=lambda pair: pair[1] == token_id):
        positions = [position for position, _ in run]
        if is_visual:
            runs.append((positions[0], positions[-1] + 1))
    return runs


def find_spans(input_ids: Tensor, token_id: int, lengths: list[int]) -> list[tuple[int, int]]:
    """Spans of the given lengths among the positions that hold `token_id`.

    Neighbouring images may touch, so a run of placeholders is cut by the lengths, which are in the prompt's order.
    Raises ValueError when they do not fill the placeholders exactly.
    """
    spans, remaining = [], list(lengths)
    for start, end in placeholder_runs(input_ids, token_id):
        while start < end:
            if not remaining or start + remaining[0] > end:
                raise ValueError("the images' lengths do not match the placeholders of the prompt")
            spans.append((start, remaining.pop(0)))
            start += spans[-1][1]
    if remaining:
        raise ValueError("the prompt has fewer placeholders than its images need")
    return spans


class Family(ABC):
    """One model family, bound to a checkpoint folder."""

    def __init__(self, config: PreTrainedConfig, path: str):
        self.config, self.path = config, path

    @abstractmethod
    def load_model(self, dtype: torch.dtype) -> nn.Module:
        """The whole target, in eval mode."""

    @property
    @abstractmethod
    def tokenizer(self): ...

    @abstractmethod
    def render(self, messages: list[dict]) -> str:
        """The chat template's text of messages, without the opening of an answer."""

    @abstractmethod
    def encode(self, prompt: Prompt) -> Encoding:
        """The prompt up to where the answer starts. Raises ValueError or OSError for a prompt that cannot be read."""

    @abstractmethod
    def spans(self, input_ids: Tensor, num_images: int) -> list[tuple[int, int]]:
        """Spans of a sequence whose placeholders are expanded already, for that many images and videos.

        Raises ValueError when they don't fit.
        """

    @abstractmethod
    def batch_pixels(self, pixels: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Pixel tensors of a batch of conversations as the model's forward takes them."""

    def position_inputs(self, input_ids: Tensor) -> dict[str, Tensor]:
        """What else the model's forward needs to place the tokens of input_ids [B, L]; nothing for most families."""
        return {}
