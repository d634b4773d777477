"""A draft that knows nothing, for any target: what an engine's own speed is measured with."""

from dataclasses import asdict
from pathlib import Path

import torch

from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft
from vllm_specflash.train.families import takes_images
from vllm_specflash.train.shape import DraftOptions, seen_by
from vllm_specflash.train.target import target_config

SEED = 0


def default_draft(target: dict[str, int], sees: bool = False) -> SpecFlashConfig:
    """The shape that a new draft gets, of a target that sees pictures or of one that doesn't: K = 5, one round."""
    options = asdict(DraftOptions()) | seen_by(DraftOptions(), sees)
    tokens, vocabulary = options["draft_vocab_size"], target["target_vocab_size"]
    options |= {"draft_vocab_size": tokens if 0 < tokens < vocabulary else None, "target_layers": None}
    return SpecFlashConfig(**options, **target)


def random_draft(target: str, folder: Path) -> Path:
    """Write a draft of the shape that `specflash train` would begin for the target, with random weights; kept where it is there.

    Args:
        target: folder or hub id; only its config is read.
    """
    if (folder / "config.json").is_file():
        return folder
    whole = target_config(target)
    text = whole.get_text_config()
    heads = text.num_attention_heads
    config = default_draft(
        {
            "hidden_size": text.hidden_size,
            "num_attention_heads": heads,
            "num_key_value_heads": getattr(text, "num_key_value_heads", None) or heads,
            "head_dim": getattr(text, "head_dim", None) or text.hidden_size // heads,
            "target_vocab_size": text.vocab_size,
        },
        takes_images(whole),
    )
    torch.manual_seed(SEED)
    SpecFlashDraft(config).to(torch.bfloat16).save_pretrained(folder)
    return folder
