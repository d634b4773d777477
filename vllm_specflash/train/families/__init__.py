"""What training must know of a model family: how a conversation is encoded, and where its visual spans lie.

A new family is one module here with a subclass of `Family`, named in FAMILIES by its config's `model_type`.
"""

from vllm_specflash.train.families.family import Family
from vllm_specflash.train.families.llava import LlavaFamily
from vllm_specflash.train.families.qwen2_5_vl import Qwen2_5_VLFamily
from vllm_specflash.train.families.text import TextFamily

FAMILIES: dict[str, type[Family]] = {
    "llama": TextFamily,
    "qwen2": TextFamily,
    "qwen3": TextFamily,
    "llava": LlavaFamily,
    "qwen2_5_vl": Qwen2_5_VLFamily,
}

__all__ = ["FAMILIES", "Family"]
