"""Inputs of every op at serving shapes: what the compile report compiles for and the benchmark measures.

Shapes are those of targets this package is for: heads, KV heads and head size of Qwen2.5-VL-7B (28, 4, 128), LLaVA-1.5-7B
(32, 32, 128), a Gemma-like wide head (8, 4, 256), a Falcon-like single KV head (40, 1, 128) and SmolLM2-135M (9, 3, 64).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .best_tree import BINS, BestTree
from .commit_rows import CommittedRows, SlotSpans
from .draft_attention import SpanTable
from .keep_tree import KeptDrafts
from .kv_compact import CacheTable, cache_table
from .latent_compress import CompressState
from .observe_chances import ChanceCounts
from .rope_store import frequencies
from .slot_queries import SlotFlags, SlotQueries
from .tree_rows import TreeRows, TreeTables


@dataclass(frozen=True)
class Heads:
    """Attention shape of a target."""

    name: str
    num_heads: int
    num_kv_heads: int
    head_dim: int


QWEN = Heads("Qwen2.5-VL-7B", 28, 4, 128)
LLAVA = Heads("LLaVA-1.5-7B", 32, 32, 128)
WIDE = Heads("wide heads", 8, 4, 256)
FALCON = Heads("Falcon-like single KV head", 40, 1, 128)
SMOL = Heads("SmolLM2-135M", 9, 3, 64)


def binary_tree_bits(nodes: int, device: str) -> Tensor:
    """Ancestor bitmasks of a binary tree in level order, [nodes] int64."""
    bits = [1]
    for node in range(1, nodes):
        bits.append(bits[(node - 1) // 2] | 1 << node)
    return torch.tensor([b - (1 << 64) if b >> 63 else b for b in bits], dtype=torch.int64, device=device)


def tree_attention_inputs(
    heads: Heads, requests: int, nodes: int, context: int, block_size: int, dtype: torch.dtype, device: str
) -> dict:
    """Arguments of tree_attention: every request the same size, its pages scattered over the cache."""
    pages = -(-(context + nodes) // block_size)
    cache = torch.randn(requests * pages, 2, block_size, heads.num_kv_heads, heads.head_dim, device=device).to(dtype)
    return dict(
        query=torch.randn(requests * nodes, heads.num_heads, heads.head_dim, device=device).to(dtype),
        key_cache=cache[:, 0],
        value_cache=cache[:, 1],
        block_table=torch.randperm(requests * pages, device=device).view(requests, pages).int(),
        context_lens=torch.full((requests,), context, dtype=torch.int32, device=device),
        cu_nodes=(torch.arange(requests + 1, device=device) * nodes).int(),
        ancestors=binary_tree_bits(nodes, device).repeat(requests),
        scale=heads.head_dim**-0.5,
        max_num_nodes=nodes,
        max_context_len=context,
    )


def draft_attention_inputs(
    heads: Heads, requests: int, visible: int, spans: int, extra: int, dtype: torch.dtype, device: str, block_size: int = 16
) -> dict:
    """Arguments of draft_attention: every request the same size, with spans of 500 hidden positions at its beginning."""
    pages = -(-(visible + 500 * spans) // block_size)
    shape = (requests * pages * block_size, 2, heads.num_kv_heads, heads.head_dim)
    cache = torch.randn(shape, device=device).to(dtype)
    args = dict(
        query=torch.randn(requests, heads.num_heads, heads.head_dim, device=device).to(dtype),
        key_cache=cache[:, 0],
        value_cache=cache[:, 1],
        block_table=torch.randperm(requests * pages, device=device).view(requests, pages).int(),
        block_size=block_size,
        visible=torch.full((requests,), visible, dtype=torch.int32, device=device),
        spans=SpanTable(
            torch.arange(spans, dtype=torch.int32, device=device).repeat(requests, 1),
            torch.full((requests, spans), 500, dtype=torch.int32, device=device),
        ),
        scale=heads.head_dim**-0.5,
        max_visible=visible,
    )
    if extra:
        shape = (2, requests, extra, heads.num_kv_heads, heads.head_dim)
        args["extra_key"], args["extra_value"] = torch.randn(shape, device=device).to(dtype)
    return args


def best_tree_inputs(requests: int, levels: int, candidates: int, nodes: int, device: str) -> dict:
    """Arguments of best_tree: chances of a draft that is fairly sure of itself."""
    following = (3 * torch.randn(requests, levels - 1, candidates, candidates, device=device)).softmax(-1)
    return dict(
        first=(3 * torch.randn(requests, candidates, device=device)).softmax(-1),
        following=following,
        num_nodes=nodes,
        deepest=torch.full((requests,), levels, dtype=torch.int32, device=device),
        chain=torch.zeros(requests, dtype=torch.bool, device=device),
        ratio=torch.ones(BINS + 1, device=device),
    )


def latent_compress_inputs(
    latents: int, size: int, spans: int, length: int, dtype: torch.dtype, device: str
) -> dict:
    """Arguments of latent_compress: spans of one length, nothing absorbed before."""
    return dict(
        queries=torch.randn(latents, size, device=device) * size**-0.5,
        hidden=torch.randn(spans * length, size, device=device).to(dtype),
        cu_seqlens=(torch.arange(spans + 1, device=device) * length).int(),
        state=CompressState.empty(spans, latents, size, device),
    )


def tree_accept_inputs(requests: int, nodes: int, device: str) -> dict:
    """Arguments of tree_accept: binary trees in which the leftmost path is accepted."""
    index = torch.arange(nodes, device=device)
    return dict(
        tokens=index.repeat(requests),
        parents=torch.where(index > 0, (index - 1) // 2, -1).int().repeat(requests),
        sampled=(2 * index + 1).repeat(requests),
        cu_nodes=(torch.arange(requests + 1, device=device) * nodes).int(),
        max_num_nodes=nodes,
    )


def tree_rows_inputs(requests: int, nodes: int, device: str) -> dict:
    """Arguments of tree_rows: chains, every request past its prompt, with one row before its root."""
    rows = requests * (nodes + 1)
    bounds = torch.arange(requests + 1, dtype=torch.int32, device=device)
    return dict(
        slot_of=torch.arange(requests, dtype=torch.int32, device=device).flip(0),
        row_bounds=bounds * (nodes + 1),
        node_bounds=bounds * nodes,
        seq_lens=torch.full((requests,), 100, dtype=torch.int32, device=device),
        prompt_lens=torch.full((requests,), 10, dtype=torch.int32, device=device),
        positions=torch.zeros(rows, dtype=torch.int64, device=device),
        tables=TreeTables.chains(requests, nodes, device),
        out=TreeRows.empty(rows, requests, nodes, device),
    )


def commit_rows_inputs(requests: int, nodes: int, verified: bool, device: str) -> dict:
    """Arguments of commit_rows: one span a slot, and either all nodes of chains accepted or none verified."""
    bounds = torch.arange(requests + 1, dtype=torch.int32, device=device) * nodes
    node = torch.arange(1, nodes, dtype=torch.int32, device=device)
    span = torch.full((requests, 1), 5, dtype=torch.int32, device=device)
    return dict(
        slot_of=torch.arange(requests, dtype=torch.int32, device=device).flip(0),
        row_bounds=bounds,
        node_bounds=bounds,
        seq_lens=torch.full((requests,), 100, dtype=torch.int32, device=device),
        sampled=torch.full((requests,), nodes, dtype=torch.int32, device=device),
        nodes=node.repeat(requests, 1) if verified else None,
        lengths=torch.full((requests,), nodes - 1, dtype=torch.int32, device=device) if verified else None,
        tokens=torch.zeros(requests, 128, dtype=torch.int32, device=device),
        slot_mapping=torch.arange(requests * nodes, device=device),
        spans=SlotSpans(torch.ones_like(span[:, 0]), span, 2 * span, span - 2),
        vocab_size=1000,
        most_rows=nodes,
        out=CommittedRows.empty(requests * nodes, requests, device),
    )


def kv_compact_inputs(
    heads: Heads, layers: int, requests: int, accepted: int, block_size: int, dtype: torch.dtype, device: str
) -> dict:
    """Arguments of kv_compact: every accepted node but none of them in place."""
    pages = -(-(3 * accepted + 2) // block_size)
    shape = (requests * pages, 2, block_size, heads.num_kv_heads, heads.head_dim)
    caches = [torch.randn(shape, device=device).to(dtype) for _ in range(layers)]
    table: CacheTable = cache_table([cache[:, part] for cache in caches for part in (0, 1)])
    nodes = (2 * torch.arange(1, accepted + 1, device=device)).int()
    return dict(
        caches=table,
        block_table=torch.arange(requests * pages, device=device).view(requests, pages).int(),
        base=torch.zeros(requests, dtype=torch.int32, device=device),
        nodes=nodes.repeat(requests, 1),
        lengths=torch.full((requests,), accepted, dtype=torch.int32, device=device),
    )


def rope_store_inputs(heads: Heads, requests: int, dtype: torch.dtype, device: str, rows: int = 17) -> dict:
    """Arguments of rope_store: so many rows a request, the last of each asks."""
    total = requests * rows
    cache = torch.zeros(total + 1, 2, heads.num_kv_heads, heads.head_dim, device=device).to(dtype)
    return dict(
        heads=torch.randn(total, heads.num_heads + 2 * heads.num_kv_heads, heads.head_dim, device=device).to(dtype),
        positions=torch.arange(total, device=device),
        slots=torch.randperm(total, device=device) + 1,
        rows=torch.arange(rows - 1, total, rows, device=device),
        frequency=frequencies(heads.head_dim, 10000.0, device),
        key_cache=cache[:, 0],
        value_cache=cache[:, 1],
    )


def keep_tree_inputs(requests: int, levels: int, candidates: int, nodes: int, device: str) -> dict:
    """Arguments of keep_tree: chains of the first candidates."""
    depth = torch.arange(1, nodes + 1, dtype=torch.int32, device=device).clamp_max(levels).repeat(requests, 1)
    chance = (0.8 ** torch.arange(1.0, nodes + 1, device=device)).repeat(requests, 1)
    chains = TreeTables.chains(requests, nodes + 1, device)
    kept = KeptDrafts(torch.zeros_like(depth).long(), torch.zeros_like(chance), TreeTables.chains(requests, nodes + 1, device),
                      torch.zeros(requests, nodes + 1, device=device))  # fmt: skip
    return dict(
        tree=BestTree(depth - 2, depth, torch.zeros_like(depth), chance, chance, *chains),
        tokens=torch.zeros(requests, levels, candidates, dtype=torch.int64, device=device),
        slot_of=torch.arange(requests, device=device),
        out=kept,
    )


def observe_chances_inputs(requests: int, nodes: int, device: str) -> dict:
    """Arguments of observe_chances: chains of which half is accepted, in the slots from the last on."""
    node = torch.arange(nodes, dtype=torch.int32, device=device)
    accepted = nodes // 2
    return dict(
        chances=torch.linspace(0, 1, nodes, device=device).repeat(requests + 1, 1),
        parents=(node - 1).repeat(requests + 1, 1),
        slot_of=torch.arange(requests, device=device).flip(0) + 1,
        node_bounds=torch.arange(requests + 1, dtype=torch.int32, device=device) * nodes,
        nodes=torch.where(node <= accepted, node, -1)[1:].repeat(requests, 1),
        lengths=torch.full((requests,), accepted, dtype=torch.int32, device=device),
        counts=ChanceCounts.empty(device),
        decay=0.998,
        prior=20.0,
    )


def slot_queries_inputs(requests: int, spans: int, rows: int, device: str) -> dict:
    """Arguments of slot_queries: half as many requests decode as there may be."""
    about = torch.ones(requests + 1, 3, dtype=torch.int32, device=device)
    tables = torch.ones(2, requests + 1, spans, dtype=torch.int32, device=device)
    flags = SlotFlags(about[:, 0], about[:, 1], SpanTable(*tables))
    return dict(
        slot_of=torch.arange(requests // 2, device=device),
        flags=flags,
        committed=CommittedRows.empty(rows, requests, device),
        num_rows=rows // 2,
        out=SlotQueries.empty(requests, flags),
    )
