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

from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft


@dataclass
class ConversionReport:
    """Which tensor became which, what was left behind, and what to know about the result."""

    mapped: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, or of a folder's .safetensors, .bin and .pt files, without a `module.` prefix."""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".bin", ".pt"))
    if not files:
        raise ValueError(f"There are no weights (.safetensors, .bin or .pt) in {path}.")
    weights = {}
    for file in files:
        loaded = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        weights.update({name.removeprefix("module."): value for name, value in loaded.items()})
    return weights


def _need(weights: dict[str, Tensor], *names: str) -> None:
    missing = [name for name in names if name not in weights]
    if missing:
        raise ValueError(f"This is not the authors' plain layout: {', '.join(missing)} missing.")


def query_order(num_heads: int, theirs: int, ours: int) -> list[int]:
    """Their query head behind each of ours, KV head by KV head.

    KV head g of theirs becomes `ours / theirs` copies; the H query heads that look at g are dealt among them in order.
    """
    copies = ours // theirs
    per_copy = num_heads // copies
    return [copy * per_copy + i for _ in range(theirs) for copy in range(copies) for i in range(per_copy)]


def convert_authors_checkpoint(
    source: Path, num_attention_heads: int, num_key_value_heads: int, target_name: str, target_vocab_size: int
) -> tuple[SpecFlashDraft, ConversionReport]:
    """Their weights as a plain draft.

    Args:
        num_attention_heads: H of the source, which its tensors do not tell.
        num_key_value_heads: of the target's cache.

    Raises:
        ValueError: one sentence, naming missing tensors or head counts that do not fit.
    """
    weights, report = read_weights(source), ConversionReport()
    projections = [f"layers.{p}_proj.{kind}" for p in "qkvo" for kind in ("weight", "bias")]
    head = [f"layers.ar_proj.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
    _need(weights, "fc.weight", "fc.bias", "A", *projections, *head)
    size = weights["fc.weight"].shape[0]
    head_dim = weights["layers.q_proj.weight"].shape[0] // num_attention_heads
    theirs = weights["layers.k_proj.weight"].shape[0] // head_dim
    copies = num_key_value_heads // theirs if theirs else 0
    if not copies or num_key_value_heads % theirs or num_attention_heads % copies:
        raise ValueError(
            f"The source's {num_attention_heads} query and {theirs} KV heads cannot be laid out over the target's "
            f"{num_key_value_heads} KV heads."
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
    state = {
        "compressor.queries": weights["A"],
        "fc.weight": weights["fc.weight"],
        "fc.bias": weights["fc.bias"],
        "attention.o_proj.bias": weights["layers.o_proj.bias"],
    }
    report.mapped.update({"A": "compressor.queries", "fc.*": "fc.*", "layers.o_proj.bias": "attention.o_proj.bias"})
    for kind in ("weight", "bias"):
        q, k, v = (weights[f"layers.{p}_proj.{kind}"].unflatten(0, (-1, head_dim)) for p in "qkv")
        k, v = (heads.repeat_interleave(copies, dim=0) for heads in (k, v))
        state[f"attention.qkv_proj.{kind}"] = torch.cat((q[order], k, v)).flatten(0, 1)
        report.mapped[f"layers.(q,k,v)_proj.{kind}"] = f"attention.qkv_proj.{kind}"
        for layer, name in ((0, "up_proj"), (2, "down_proj")):
            state[f"head.{name}.{kind}"] = weights[f"layers.ar_proj.{layer}.{kind}"]
            report.mapped[f"layers.ar_proj.{layer}.{kind}"] = f"head.{name}.{kind}"
    columns = weights["layers.o_proj.weight"].unflatten(1, (-1, head_dim))
    state["attention.o_proj.weight"] = columns[:, order].flatten(1)
    report.mapped["layers.o_proj.weight"] = "attention.o_proj.weight"
    used = {"fc.weight", "fc.bias", "A", *projections, *head}
    report.dropped = sorted(set(weights) - used)
    if len(order) != num_attention_heads or copies > 1:
        report.notes.append(
            f"attention: {num_attention_heads} query and {theirs} KV heads, summed over all KV heads, are laid out as "
            f"{len(order)} query and {num_key_value_heads} KV heads with the same result"
        )
    report.notes.append("text before an image goes through fc here, as all text does; the authors' script lets it bypass fc")
    draft.load_state_dict(state)
    return draft, report
