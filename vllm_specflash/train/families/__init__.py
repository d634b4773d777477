"""What training must know of a model family: how a conversation is encoded, and where its visual spans lie.

A new family is one module here with a subclass of `Family`, named in FAMILIES by its config's `model_type`.
"""

from transformers import PreTrainedConfig

from vllm_specflash.config import SpecFlashError
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


def takes_images(config: PreTrainedConfig) -> bool:
    """Whether a target of this config is more than a text model."""
    return config.get_text_config() is not config


def family_of(config: PreTrainedConfig, path: str) -> Family:
    """The family of a target's config. Raises SpecFlashError for one that is not known."""
    if config.model_type not in FAMILIES:
        raise SpecFlashError(
            f"Targets of type {config.model_type!r} cannot be trained for yet (known: {', '.join(FAMILIES)}): "
            "add a module to vllm_specflash/train/families."
        )
    return FAMILIES[config.model_type](config, path)


__all__ = ["FAMILIES", "Family", "family_of", "takes_images"]
