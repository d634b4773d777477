"""Text-only decoders (Llama, Qwen): no spans, no pixels."""

from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from vllm_specflash.train.families.family import Encoding, Family
from vllm_specflash.train.prompts import Prompt


class TextFamily(Family):
    def load_model(self, dtype: torch.dtype) -> nn.Module:
        return AutoModelForCausalLM.from_pretrained(self.path, dtype=dtype).eval()

    @cached_property
    def tokenizer(self):
        return AutoTokenizer.from_pretrained(self.path)

    def render(self, messages: list[dict]) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False)

    def encode(self, prompt: Prompt) -> Encoding:
        if prompt.sees:
            raise ValueError("the prompt has an image and the target is text-only")
        ids = self.tokenizer.apply_chat_template(
            prompt.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        return Encoding(ids["input_ids"][0])

    def spans(self, input_ids: Tensor, num_images: int) -> list[tuple[int, int]]:
        return []

    def batch_pixels(self, pixels: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {}
