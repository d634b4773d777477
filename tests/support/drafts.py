"""Small random drafts for the targets of tiny_models.py, and those that tests of engines ask for by name."""

from pathlib import Path

import torch
from tiny_models import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, SPECIAL, successor
from transformers import AutoConfig

from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft


def named_drafts(target: Path, folder: Path, **random) -> dict[str, Path]:
    """Drafts for a target of two layers, by name; `random` are more fields of the random one's config."""
    return {
        "knowing": draft_for(target, folder / "knowing", knowing=True),
        "random": draft_for(target, folder / "random", transition_rank=4, draft_vocab_size=40, **random),
        "nan": draft_for(target, folder / "nan", nan=True),
        "plain": draft_for(target, folder / "plain", variant="plain", num_latents=32),
        "layers": draft_for(target, folder / "layers", knowing=True, target_layers=[1, 0]),
    }


def draft_for(
    target: Path, folder: Path, seed: int = 0, nan: bool = False, knowing: bool = False, noticing: bool = False, **overrides
) -> Path:
    """A random draft that fits a target of tiny_models.py.

    Args:
        nan: fill its weights with NaNs.
        noticing: make its weights so large that every row it attends to shows in what it says; 32 tokens, all candidates.
        knowing: teach it the target's language, so that about two thirds of its guesses are right.
        overrides: fields of its config.
    """
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(target).get_text_config()
    fields = {
        "hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "num_latents": 4, "target_name": target.name, "target_vocab_size": config.vocab_size,
    }  # fmt: skip
    if noticing:
        fields |= {"initializer_range": 0.1, "draft_vocab_size": 32, "transition_rank": 4, "semi_ar_width": 4}
    draft = SpecFlashDraft(SpecFlashConfig(**{**fields, **overrides}))
    with torch.no_grad():
        if noticing:
            draft.fc.weight.mul_(0.3)
            draft.head.down_proj.weight.mul_(0.25)
            if draft.feed_forward is not None:
                draft.feed_forward.down_proj.weight.normal_(std=0.3)
            draft.transition.following.normal_()
            # Not the first tokens of the vocabulary, so that its indices are not the target's.
            draft.d2t.add_(len(SPECIAL)).mul_(2)
        if knowing:
            _teach(draft, successor(config.vocab_size))
        if nan:
            for parameter in draft.parameters():
                parameter.fill_(float("nan"))
    draft.save_pretrained(folder)
    return folder


def _teach(draft: SpecFlashDraft, follows: torch.Tensor) -> None:
    """h^_i = the one-hot state of the (i-1)-th successor of the newest token."""
    size, vocab_size = draft.config.hidden_size, len(follows)
    draft.fc.weight.zero_()
    draft.fc.weight[:, :size] = torch.eye(size)
    draft.attention.o_proj.weight.zero_()
    draft.head.up_proj.weight.zero_()
    draft.head.up_proj.weight[:size] = torch.eye(size)
    draft.head.down_proj.weight.zero_()
    state = torch.arange(vocab_size)
    for offset in range(draft.config.semi_ar_width):
        draft.head.down_proj.weight[offset * size + state, torch.arange(vocab_size)] = 2.0
        state = follows[state]
