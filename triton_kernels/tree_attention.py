"""Attention of candidate trees over a paged KV cache, every request with its own tree.

SpecInfer (arXiv 2305.09781) calls it tree attention: node i of a request's tree sees the committed context and its own
ancestors, itself included. With c = context_lens[r] and the nodes' keys at positions c, c + 1, ... of the request:

    visible(i) = {0 .. c - 1} u {c + j : bit j of ancestors[i]}
    out[i, h]  = softmax(scale * query[i, h] K[visible(i), g]^T) V[visible(i), g]        g = h // (H / Hkv)

Node 0 is the root (the last committed token); a chain is the tree whose node i has bits 0..i. Long contexts are split
over programs and merged by their log-sum-exps (flash-decoding).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._softmax import absorb, choose_splits, load_query, merge_splits, row_stride, split_buffers, store_rows
from ._tiles import launched_tiles, tile_config, tile_of_program
from ._triton import launch, launches, tl, triton

MAX_NODES = 64


def visible_nodes(ancestors: Tensor, num_nodes: int) -> Tensor:
    """Bitmasks [n] int64 -> [n, num_nodes] bool."""
    return (ancestors.unsqueeze(-1) >> torch.arange(num_nodes, device=ancestors.device)) & 1 != 0


def _gather(cache: Tensor, blocks: Tensor, length: int) -> Tensor:
    """Paged cache [num_blocks, block_size, Hkv, Dh], any strides, of one request -> [Hkv, length, Dh]."""
    pages = cache.index_select(0, blocks)
    return pages.permute(2, 0, 1, 3).flatten(1, 2)[:, :length]


def tree_attention_torch(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    cu_nodes: Tensor,
    ancestors: Tensor,
    scale: float,
    out: Tensor | None = None,
) -> Tensor:
    """Torch path of `tree_attention`: one gather and one fused SDPA per request."""
    block_size, num_kv_heads = key_cache.shape[1], key_cache.shape[2]
    group = query.shape[1] // num_kv_heads
    out = torch.empty_like(query) if out is None else out
    bounds, contexts = cu_nodes.tolist(), context_lens.tolist()
    for request, context in enumerate(contexts):
        start, end = bounds[request], bounds[request + 1]
        nodes = end - start
        if nodes == 0:
            continue
        if nodes > MAX_NODES:
            raise ValueError(f"A tree of {nodes} nodes does not fit its ancestor bitmask: the limit is {MAX_NODES}.")
        length = context + nodes
        blocks = block_table[request, : -(-length // block_size)]
        key, value = _gather(key_cache, blocks, length), _gather(value_cache, blocks, length)
        mask = None
        if nodes > 1:
            mask = torch.ones(nodes, group, length, dtype=torch.bool, device=query.device)
            mask[:, :, context:] = visible_nodes(ancestors[start:end], nodes).unsqueeze(1)
            mask = mask.view(1, 1, nodes * group, length)
        rows = query[start:end].view(nodes, num_kv_heads, group, -1).transpose(0, 1).flatten(1, 2)
        attended = F.scaled_dot_product_attention(
            rows.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0), attn_mask=mask, scale=scale
        )
        out[start:end].view(nodes, num_kv_heads, group, -1).copy_(
            attended.view(num_kv_heads, nodes, group, -1).transpose(0, 1)
        )
    return out


@triton.jit(do_not_specialize=["stride_table", "requests", "tiles_per_request", "num_splits"])
def tree_attention_kernel(
    query, key_cache, value_cache, out, lse, block_table, context_lens, cu_nodes, ancestors, scale_log2,
    stride_q_row, stride_q_head, stride_k_block, stride_k_pos, stride_k_head,
    stride_v_block, stride_v_pos, stride_v_head, stride_o_row, stride_o_head, stride_table,
    requests, tiles_per_request, num_splits,
    BLOCK_SIZE: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One piece of the context, for BLOCK_M (node, head of the group) rows of one request and KV head.

    SPLIT: out and lse take the piece's own result, [N, H, num_splits, Dh] and [N, H, num_splits] float32; otherwise out is the
    answer.
    """
    # Row tiles vary fastest: those that read the same keys run side by side and share them in L2.
    num_tiles = tl.num_programs(0) // num_splits
    split, kv_head = tl.program_id(0) // num_tiles, tl.program_id(1)
    request, tile = tile_of_program(
        tl.program_id(0) % num_tiles, cu_nodes, requests, tiles_per_request, GROUP, BLOCK_M
    )
    first = tl.load(cu_nodes + request)
    nodes = tl.load(cu_nodes + request + 1) - first
    if tile * BLOCK_M >= nodes * GROUP:
        return

    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    live, row, head = m < nodes * GROUP, (first + m // GROUP).to(tl.int64), kv_head * GROUP + m % GROUP
    q = load_query(query, row, head, live, stride_q_row, stride_q_head, HEAD_DIM, BLOCK_D)

    context = tl.load(context_lens + request)
    length = context + nodes
    piece = tl.cdiv(tl.cdiv(length, num_splits), BLOCK_N) * BLOCK_N
    begin = split * piece
    end = tl.minimum(begin + piece, length)
    # Up to here every row sees every key, so that the loop needs no mask.
    open_end = tl.minimum(end, context // BLOCK_N * BLOCK_N)

    table = block_table + request.to(tl.int64) * stride_table
    keys, values = key_cache + kv_head * stride_k_head, value_cache + kv_head * stride_v_head
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    n = tl.arange(0, BLOCK_N)
    for start in range(begin, open_end, BLOCK_N):
        position = start + n
        block, offset = tl.load(table + position // BLOCK_SIZE).to(tl.int64), position % BLOCK_SIZE
        k_rows = keys + block * stride_k_block + offset * stride_k_pos
        v_rows = values + block * stride_v_block + offset * stride_v_pos
        acc, row_max, row_sum = absorb(
            acc, row_max, row_sum, q, k_rows, v_rows, None, None, scale_log2, False, HEAD_DIM, BLOCK_D, PRECISION
        )

    bits = tl.load(ancestors + row, mask=live, other=0)
    for start in range(tl.maximum(begin, open_end), end, BLOCK_N):
        position = start + n
        inside = position < end
        block = tl.load(table + position // BLOCK_SIZE, mask=inside, other=0).to(tl.int64)
        offset = position % BLOCK_SIZE
        k_rows = keys + block * stride_k_block + offset * stride_k_pos
        v_rows = values + block * stride_v_block + offset * stride_v_pos
        node = position - context
        bit = (bits[:, None] >> tl.maximum(node, 0).to(tl.int64)[None, :]) & 1
        seen = inside[None, :] & ((node < 0)[None, :] | (bit != 0))
        acc, row_max, row_sum = absorb(
            acc, row_max, row_sum, q, k_rows, v_rows, inside, seen, scale_log2, True, HEAD_DIM, BLOCK_D, PRECISION
        )
    store_rows(
        out, lse, acc, row_max, row_sum, row, head, live, stride_o_row, stride_o_head, tl.num_programs(1) * GROUP,
        split, num_splits, SPLIT, HEAD_DIM, BLOCK_D,
    )  # fmt: skip


def tree_attention_triton(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    cu_nodes: Tensor,
    ancestors: Tensor,
    scale: float,
    out: Tensor | None = None,
    max_num_nodes: int = MAX_NODES,
    max_context_len: int | None = None,
    num_splits: int | None = None,
) -> Tensor:
    """Launcher of the kernel. num_splits overrides the choice; max_context_len defaults to what the block table can hold.

    Compiled once per model, cache and power of two that max_num_nodes * H / Hkv fits in (up to a tile of 128), and once more
    for contexts that are split.
    """
    rows, heads, head_dim = query.shape
    requests, (block_size, num_kv_heads) = context_lens.shape[0], key_cache.shape[1:3]
    group = heads // num_kv_heads
    out = torch.empty_like(query) if out is None else out
    widest = min(max_num_nodes, rows)
    # Not by the rows of this batch: few of them would be a kernel of their own, compiled inside a request.
    config = tile_config(max_num_nodes * group, head_dim, query.dtype)
    tiles, each = launched_tiles(rows, requests, widest, group, config["BLOCK_M"])
    if num_splits is None:
        longest = block_table.shape[1] * block_size if max_context_len is None else max_context_len + widest
        num_splits = choose_splits(max(1, tiles * num_kv_heads), longest, config["BLOCK_N"], query.device)
    target, lse = split_buffers(out, num_splits)
    launch(
        tree_attention_kernel, (tiles * num_splits, num_kv_heads),
        query, key_cache, value_cache, target, lse, block_table, context_lens, cu_nodes, ancestors,
        scale * math.log2(math.e), row_stride(query), query.stride(1), *key_cache.stride()[:3], *value_cache.stride()[:3],
        row_stride(out), out.stride(1), block_table.stride(0), requests, each, num_splits,
        BLOCK_SIZE=block_size, GROUP=group, HEAD_DIM=head_dim, SPLIT=num_splits > 1,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32", **config,
    )  # fmt: skip
    merge_splits(target, lse, out)
    return out


def tree_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    cu_nodes: Tensor,
    ancestors: Tensor,
    scale: float,
    out: Tensor | None = None,
    max_num_nodes: int = MAX_NODES,
    max_context_len: int | None = None,
) -> Tensor:
    """Attend the N tree nodes of R requests; returns out [N, H, Dh] (made if not given).

    query [N, H, Dh] bfloat16, float16 or float32, request r owning rows cu_nodes[r] to cu_nodes[r + 1], at most 64 of them.
    key_cache, value_cache [num_blocks, block_size, Hkv, Dh], the query's dtype; the last dimension contiguous on a GPU. The
        nodes' own keys and values are already there, node i of r at position context_lens[r] + i.
    block_table [R, max_blocks] int32; entries past a request's last position may be anything.
    context_lens [R] int32: committed positions before the root; may be 0.
    cu_nodes [R + 1] int32; ancestors [N] int64: bit j set if node j of the same tree is an ancestor or the node itself.
    max_num_nodes, max_context_len: upper bounds over the batch, known to the host; they size the GPU launch (and are part of
        a captured graph), nothing else.
    Raises ValueError for a tree of more than 64 nodes.
    """
    if max_num_nodes > MAX_NODES:
        raise ValueError(f"Trees of {max_num_nodes} nodes do not fit their ancestor bitmasks: the limit is {MAX_NODES}.")
    if not launches(query):
        return tree_attention_torch(
            query, key_cache, value_cache, block_table, context_lens, cu_nodes, ancestors, scale, out
        )
    return tree_attention_triton(
        query, key_cache, value_cache, block_table, context_lens, cu_nodes, ancestors, scale, out,
        max_num_nodes, max_context_len,
    )  # fmt: skip
