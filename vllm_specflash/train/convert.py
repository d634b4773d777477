"""The authors' published checkpoint layout, as a plain draft of ours.

Their names: `fc.{weight,bias}`, `layers.{q,k,v,o}_proj.{weight,bias}`, `layers.ar_proj.{0,2}.{weight,bias}` (the head),
`A` [64, D] (the latent queries), and `embed_tokens.weight`, a copy of the target's table that we do not keep.

Two things are not one to one. Their attention has H query heads and G KV heads, and sums every query head's result
over *all* G KV heads, where grouped attention gives each query head one. With query heads repeated per KV head and
the output projection's columns repeated likewise, grouped attention computes the same sum. And the draft's KV must have
as many heads as the target's paged cache: KV heads are repeated to that number, and the query heads dealt among the copies.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from vllm_specflash.config import SpecFlashError, first_sentence
from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft


@dataclass(frozen=True)
class Mapped:
    """One of our tensors, and those of theirs that it is made of; shapes as in "qkv_proj.weight [1792, 4096]"."""

    ours: str
    theirs: list[str]


@dataclass
class ConversionReport:
    """Which tensors became which, what was left behind, and what to know about the result."""

    mapped: list[Mapped] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# Ours, and what it is made of.
SOURCES = {
    "compressor.queries": ("A",),
    "fc.weight": ("fc.weight",),
    "fc.bias": ("fc.bias",),
    "attention.qkv_proj.weight": tuple(f"layers.{p}_proj.weight" for p in "qkv"),
    "attention.qkv_proj.bias": tuple(f"layers.{p}_proj.bias" for p in "qkv"),
    "attention.o_proj.weight": ("layers.o_proj.weight",),
    "attention.o_proj.bias": ("layers.o_proj.bias",),
    "head.up_proj.weight": ("layers.ar_proj.0.weight",),
    "head.up_proj.bias": ("layers.ar_proj.0.bias",),
    "head.down_proj.weight": ("layers.ar_proj.2.weight",),
    "head.down_proj.bias": ("layers.ar_proj.2.bias",),
}


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, or of a folder's .safetensors, .bin and .pt files, without a `module.` prefix."""
    if not path.exists():
        raise SpecFlashError(f"There is no {path}: name a file or folder of the authors' weights.")
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".bin", ".pt"))
    if not files:
        raise SpecFlashError(f"There are no weights (.safetensors, .bin or .pt) in {path}: name the folder that has them.")
    weights = {}
    for file in files:
        try:
            loaded = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        # A damaged file raises whatever its format's reader stumbles over.
        except Exception as error:
            raise SpecFlashError(f"{file} could not be read ({first_sentence(error)}): copy it here again.") from error
        weights.update({name.removeprefix("module."): value for name, value in loaded.items()})
    return weights


def _need(weights: dict[str, Tensor], *names: str) -> None:
    missing = [name for name in names if name not in weights]
    if missing:
        raise SpecFlashError(
            f"This is not the authors' plain layout ({', '.join(missing)} missing): convert takes a checkpoint of their "
            "fc, layers, A names."
        )


def query_order(num_heads: int, theirs: int, ours: int) -> list[int]:
    """Their query head behind each of ours, KV head by KV head.

    KV head g of theirs becomes `ours / theirs` copies; the H query heads that look at g are dealt among them in order.
    """
    copies = ours // theirs
    per_copy = num_heads // copies
    return [copy * per_copy + i for _ in range(theirs) for copy in range(copies) for i in range(per_copy)]


def convert_authors_checkpoint(
    source: Path,
    num_attention_heads: int,
    num_key_value_heads: int,
    head_dim: int,
    target_name: str,
    target_hidden_size: int,
    target_vocab_size: int,
) -> tuple[SpecFlashDraft, ConversionReport]:
    """Their weights as a plain draft.

    Args:
        num_attention_heads: H of the source, which its tensors do not tell.
        num_key_value_heads: of the target's cache.
        head_dim: of the target's cache.

    Raises:
        SpecFlashError: one sentence, naming missing tensors, or sizes that do not fit the target.
    """
    weights = read_weights(source)
    _need(weights, *(name for names in SOURCES.values() for name in names))
    size = weights["fc.weight"].shape[0]
    if size != target_hidden_size:
        raise SpecFlashError(
            f"The source was trained for hidden size {size}, and {target_name} has {target_hidden_size}: name the target "
            "that it belongs to."
        )
    if weights["layers.q_proj.weight"].shape[0] != num_attention_heads * head_dim:
        raise SpecFlashError(
            f"The source's {weights['layers.q_proj.weight'].shape[0]} query rows are not {num_attention_heads} heads of "
            f"the target's {head_dim}: give the source's heads with --num-attention-heads."
        )
    theirs = weights["layers.k_proj.weight"].shape[0] // head_dim
    copies = num_key_value_heads // theirs if theirs else 0
    if not copies or num_key_value_heads % theirs or num_attention_heads % copies:
        raise SpecFlashError(
            f"The source's {num_attention_heads} query and {theirs} KV heads cannot be laid out over the target's "
            f"{num_key_value_heads} KV heads: only a target with a multiple of its KV heads can take it."
        )
    order = query_order(num_attention_heads, theirs, num_key_value_heads)
    draft = SpecFlashDraft(
        SpecFlashConfig(
            hidden_size=size,
            num_attention_heads=len(order),
            num_key_value_heads=num_key_value_heads,
            head_dim=head_dim,
            rope_theta=10000.0,
            semi_ar_width=weights["layers.ar_proj.2.weight"].shape[0] // size,
            num_latents=weights["A"].shape[0],
            head_expansion=weights["layers.ar_proj.0.weight"].shape[0] // size,
            attention_bias=True,
            variant="plain",
            target_name=target_name,
            target_vocab_size=target_vocab_size,
        )
    )
    state = {ours: weights[names[0]] for ours, names in SOURCES.items() if len(names) == 1}
    for kind in ("weight", "bias"):
        q, k, v = (weights[f"layers.{p}_proj.{kind}"].unflatten(0, (-1, head_dim)) for p in "qkv")
        k, v = (heads.repeat_interleave(copies, dim=0) for heads in (k, v))
        state[f"attention.qkv_proj.{kind}"] = torch.cat((q[order], k, v)).flatten(0, 1)
    columns = weights["layers.o_proj.weight"].unflatten(1, (-1, head_dim))
    state["attention.o_proj.weight"] = columns[:, order].flatten(1)
    draft.load_state_dict(state)
    return draft, _report(weights, state, num_attention_heads, theirs, len(order), num_key_value_heads)


def _report(
    weights: dict[str, Tensor], state: dict[str, Tensor], num_heads: int, theirs: int, our_heads: int, ours: int
) -> ConversionReport:
    def shaped(name: str, tensor: Tensor) -> str:
        return f"{name} {list(tensor.shape)}"

    used = {name for names in SOURCES.values() for name in names}
    notes = ["text before an image goes through fc here, as all text does; the authors' script lets it bypass fc"]
    if our_heads != num_heads or ours != theirs:
        notes.insert(
            0,
            f"attention: {num_heads} query and {theirs} KV heads, summed over all KV heads, are laid out as "
            f"{our_heads} query and {ours} KV heads with the same result",
        )
    if "embed_tokens.weight" in weights:
        notes.append("embed_tokens is the target's own table, which the engine shares")
    return ConversionReport(
        [Mapped(shaped(n, state[n]), [shaped(s, weights[s]) for s in sources]) for n, sources in SOURCES.items()],
        [shaped(name, weights[name]) for name in sorted(set(weights) - used)],
        notes,
    )
