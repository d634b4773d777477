"""What vision-language families with a transformers processor share."""

from abc import abstractmethod
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from vllm_specflash.train.families.family import Encoding, Family, find_spans
from vllm_specflash.train.images import read_image
from vllm_specflash.train.prompts import Prompt
from vllm_specflash.train.skipped import Unusable


class VisionFamily(Family):
    def load_model(self, dtype: torch.dtype) -> nn.Module:
        return AutoModelForImageTextToText.from_pretrained(self.path, dtype=dtype).eval()

    @cached_property
    def processor(self):
        return AutoProcessor.from_pretrained(self.path)

    @property
    def tokenizer(self):
        return self.processor.tokenizer

    @property
    def image_token_id(self) -> int:
        """Of the placeholder that stands where visual tokens go. Raises Unusable where the config does not name it."""
        token_id = getattr(self.config, "image_token_id", None)
        if token_id is None:
            raise Unusable("the target's config names no visual token", "image_token_id")
        return token_id

    @abstractmethod
    def span_lengths(self, features: dict[str, Tensor]) -> list[int]:
        """Visual tokens of each image, in the prompt's order, from the processor's output."""

    def render(self, messages: list[dict]) -> str:
        return self.processor.apply_chat_template(messages, tokenize=False)

    def encode(self, prompt: Prompt) -> Encoding:
        if prompt.video_paths:
            # Which frames of it the target saw, only the engine knows that chose them.
            raise Unusable("the prompt has a video, whose features only `specflash data --features` keeps")
        text = self.processor.apply_chat_template(self.chat_format(prompt), add_generation_prompt=True, tokenize=False)
        images = [read_image(path) for path in prompt.image_paths]
        features = dict(self.processor(text=[text], images=images or None, return_tensors="pt"))
        ids = features.pop("input_ids")[0]
        pixels = {name: value for name, value in features.items() if name in self.pixel_names}
        spans = find_spans(ids, self.image_token_id, self.span_lengths(pixels)) if images else []
        return Encoding(ids, spans, pixels)

    def chat_format(self, prompt: Prompt) -> list[dict]:
        """Messages whose contents are all lists of parts, as processors' templates expect."""
        return [
            {"role": m["role"], "content": [{"type": "text", "text": m["content"]}]
             if isinstance(m["content"], str) else [{k: v for k, v in p.items() if k != "path"} for p in m["content"]]}
            for m in prompt.messages
        ]  # fmt: skip

    # Names of the processor's outputs that the model's forward takes beside the ids.
    pixel_names: tuple[str, ...] = ("pixel_values",)

    def batch_pixels(self, pixels: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Images of the whole batch along the first dimension, as LLaVA and Qwen2.5-VL both want them."""
        names = [name for name in self.pixel_names if any(name in sample for sample in pixels)]
        return {name: torch.cat([sample[name] for sample in pixels if name in sample]) for name in names}
