"""The shape of a new draft, taken from its target and from the answers; and of one that starts from another."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vllm_specflash.config import SpecFlashError, first_sentence
from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft
from vllm_specflash.draft.compressor import FEATURES, FORMS
from vllm_specflash.draft.config import VARIANTS
from vllm_specflash.train.answers import Answer
from vllm_specflash.train.families import takes_images
from vllm_specflash.train.option import option
from vllm_specflash.train.target import Target
from vllm_specflash.train.vocabulary import choose_vocabulary


@dataclass(frozen=True)
class DraftOptions:
    """Shape of the draft."""

    semi_ar_width: int = option(5, "K, tokens per draft forward.", min=1)
    num_rounds: int = option(1, "R, draft forwards per step that the checkpoint asks for.", min=1)
    num_latents: int = option(16, "M, rows that a visual span is pooled into; 0: none.", min=0)
    pool_length: int = option(
        0, "Positions that these are pooled from at most: a longer span is cut, so that rows grow with the picture; 0: never.", min=0
    )
    compressor: str = option("placed", "How they are pooled: placed (knows places), paper, or none: kept as they are.", choices=FORMS)
    visual_features: str = option(
        "auto", "What placed pools: the projector's outputs (embeddings, which auto is), the last states, or both.", choices=("auto", *FEATURES)
    )
    latent_positions: int = option(64, "Of placed: bins along a span; best its usual length.", min=1)
    latent_heads: int = option(1, "Of placed: queries per latent.", min=1)
    feed_forward: int = option(0, "Hidden units of a feed-forward block after the attention; 0: none.", min=0)
    head_expansion: int = option(4, "Width of the head's hidden layer, in hidden sizes.", min=1)
    draft_vocab_size: int = option(8192, "Tokens the draft can propose; 0: all.", min=0)
    transition_rank: int = option(64, "Rank of the correction between positions; 0: none.", min=0)
    selector_width: int = option(0, "Hidden units of its part that sees the states; 0: none.", min=0)
    target_layers: str = option("", "Layers of the target, by commas, whose inputs the draft sees too; empty: none.")
    variant: str = option("residual", "residual or plain.", choices=VARIANTS)


def layers_of(text: str, num_layers: int, flag: str = "--target-layers") -> list[int] | None:
    """Numbers of layers out of the "2, 15" that an option was given; None for none. Raises SpecFlashError for what is no layer's number."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() and int(word) < num_layers for word in words):
        raise SpecFlashError(f"{flag} takes numbers from 0 to {num_layers - 1}, by commas, not {text!r}.")
    return [int(word) for word in words] or None


def seen_by(options: DraftOptions, sees: bool) -> dict[str, str | int | None]:
    """What a draft's config says of pictures; of a target that sees nothing there is nothing to place."""
    compressor, features = options.compressor if sees else "paper", "states"
    if compressor == "placed":
        features = "embeddings" if options.visual_features == "auto" else options.visual_features
    return {"compressor": compressor, "visual_features": features, "pool_length": options.pool_length or None}


def new_draft(target: Target, options: DraftOptions, answers: list[Answer]) -> tuple[SpecFlashDraft, float]:
    """An untrained draft for a target, its vocabulary taken from the answers; and the vocabulary's coverage of them.

    Raises:
        SpecFlashError: options that contradict each other.
    """
    if options.visual_features not in ("auto", "states") and options.compressor != "placed":
        raise SpecFlashError("--visual-features says what --compressor placed pools: give both, or leave it out.")
    if options.pool_length and options.compressor == "none":
        raise SpecFlashError("--pool-length cuts what is pooled, and --compressor none pools nothing: leave one of them out.")
    text, vocab = target.text_config, target.lm_head.shape[0]
    d2t, coverage = None, 1.0
    if options.draft_vocab_size and options.draft_vocab_size < vocab:
        d2t, coverage = choose_vocabulary((answer.token_ids for answer in answers), options.draft_vocab_size)
    try:
        config = SpecFlashConfig(
            hidden_size=text.hidden_size,
            num_attention_heads=text.num_attention_heads,
            num_key_value_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            rms_norm_eps=text.rms_norm_eps,
            semi_ar_width=options.semi_ar_width,
            num_rounds=options.num_rounds,
            num_latents=options.num_latents,
            **seen_by(options, takes_images(target.config)),
            latent_positions=options.latent_positions,
            latent_heads=options.latent_heads,
            feed_forward=options.feed_forward,
            head_expansion=options.head_expansion,
            draft_vocab_size=None if d2t is None else len(d2t),
            transition_rank=options.transition_rank,
            selector_width=options.selector_width,
            target_layers=layers_of(options.target_layers, text.num_hidden_layers),
            variant=options.variant,
            target_name=target.name,
            target_vocab_size=vocab,
        )
    except ValueError as error:
        raise SpecFlashError(str(error)) from error
    draft = SpecFlashDraft(config)
    if d2t is not None:
        draft.d2t.copy_(d2t)
    # Embeddings are far smaller than hidden states: without this W_fc barely sees which token comes next.
    with torch.no_grad():
        rms = target.embedding[:1024].float().pow(2).mean().sqrt().item()
        draft.fc.weight[:, : config.hidden_size] /= rms
    return draft, coverage


def read_draft(path: str | Path, target: Target) -> SpecFlashDraft:
    """A draft of this target, in float32.

    Raises:
        SpecFlashError: there is none at `path`, its weights are damaged, or it is of another kind of target.
    """
    try:
        draft = SpecFlashDraft.from_pretrained(path, dtype=torch.float32)
    # A damaged file raises whatever its reader stumbles over.
    except Exception as error:
        raise SpecFlashError(
            f"There is no draft at {str(path)!r} that can be read ({first_sentence(error)}): name a folder that "
            "`specflash train` wrote, or a hub id."
        ) from error
    theirs = (draft.config.hidden_size, draft.config.target_vocab_size)
    ours = (target.text_config.hidden_size, target.lm_head.shape[0])
    if theirs != ours:
        raise SpecFlashError(
            f"The draft at {str(path)!r} is for a target of hidden size {theirs[0]} and {theirs[1]} tokens, and {target.name} "
            f"has {ours[0]} and {ours[1]}: name a draft of this target."
        )
    return draft


def with_selector(draft: SpecFlashDraft, width: int) -> SpecFlashDraft:
    """The same draft with an untrained selector of that width, which changes nothing yet.

    Raises:
        SpecFlashError: the draft has no transition for it to be a part of, or has one already.
    """
    if not draft.config.transition_rank:
        raise SpecFlashError("--start-selector-width needs a draft with a transition: the one that --start-from names has none.")
    wider = _grown(draft, selector_width=width)
    # Tokens' vectors have grown in training: the selector is to see them at the size that its initialisation is made for.
    with torch.no_grad():
        wider.transition.selector.token_weight /= wider.transition.previous.norm(dim=-1).mean()
    return wider


def with_feed_forward(draft: SpecFlashDraft, width: int) -> SpecFlashDraft:
    """The same draft with an untrained feed-forward block of that width, which changes nothing yet.

    Raises:
        SpecFlashError: it has one already.
    """
    return _grown(draft, feed_forward=width)


def with_layers(draft: SpecFlashDraft, layers: list[int]) -> SpecFlashDraft:
    """The same draft, which also reads what goes into these layers of the target; what it reads there counts for nothing yet.

    Raises:
        SpecFlashError: it reads layers already.
    """
    return _grown(draft, target_layers=layers)


def _grown(draft: SpecFlashDraft, **part: int | list[int]) -> SpecFlashDraft:
    """The same draft with one more part, untrained. Raises SpecFlashError where it has that part: its weights would not be kept."""
    (name,) = part
    if getattr(draft.config, name):
        raise SpecFlashError(f"The draft that --start-from names has a {name} of {getattr(draft.config, name)} already: leave out the option that adds one.")
    grown = SpecFlashDraft(draft.config.__class__.from_dict({**draft.config.to_dict(), **part}))
    state = grown.to(draft.dtype).state_dict()
    for name, value in draft.state_dict().items():
        # A matrix that reads more than before has columns behind those it had: they add nothing.
        state[name].zero_()[tuple(slice(size) for size in value.shape)] = value
    return grown


def with_vocabulary(draft: SpecFlashDraft, d2t: Tensor) -> SpecFlashDraft:
    """The same draft over the tokens d2t [V_d], ascending; those it could not propose before start without a transition."""
    config = draft.config.__class__.from_dict({**draft.config.to_dict(), "draft_vocab_size": len(d2t)})
    smaller = SpecFlashDraft(config).to(draft.dtype)
    row_of = torch.full((config.target_vocab_size,), -1)
    row_of[draft.d2t if draft.config.draft_vocab_size else slice(None)] = torch.arange(draft.config.num_draft_tokens)
    rows, state = row_of[d2t], smaller.state_dict()
    for name, value in draft.state_dict().items():
        if name in ("transition.previous", "transition.following"):
            state[name].copy_(value[rows.clamp(min=0)] * (rows >= 0).unsqueeze(-1))
        elif name != "d2t":
            state[name].copy_(value)
    state["d2t"].copy_(d2t)
    return smaller
