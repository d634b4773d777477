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

from ._softmax import absorb, choose_splits, merge_splits
from ._triton import launches, tl, triton

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


@triton.jit
def tree_attention_kernel(
    query, key_cache, value_cache, out, lse, block_table, context_lens, cu_nodes, ancestors, scale_log2,
    stride_q_row, stride_q_head, stride_k_block, stride_k_pos, stride_k_head,
    stride_v_block, stride_v_pos, stride_v_head, stride_o_row, stride_o_head, stride_table, num_splits,
    BLOCK_SIZE: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One piece of the context, for BLOCK_M (node, head of the group) rows of one request and KV head.

    SPLIT: out and lse take the piece's own result, [N, H, num_splits, Dh] and [N, H, num_splits] float32; otherwise out is the
    answer.
    """
    # Row tiles vary fastest: those that read the same keys run side by side and share them in L2.
    num_tiles = tl.num_programs(0) // num_splits
    tile, split = tl.program_id(0) % num_tiles, tl.program_id(0) // num_tiles
    kv_head, request = tl.program_id(1), tl.program_id(2)
    first = tl.load(cu_nodes + request)
    nodes = tl.load(cu_nodes + request + 1) - first
    if tile * BLOCK_M >= nodes * GROUP:
        return

    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    live, in_head = m < nodes * GROUP, d < HEAD_DIM
    row, head = (first + m // GROUP).to(tl.int64), kv_head * GROUP + m % GROUP
    q = tl.load(
        query + (row * stride_q_row + head * stride_q_head)[:, None] + d[None, :],
        mask=live[:, None] & in_head[None, :],
        other=0.0,
    )

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
        block = tl.load(table + position // BLOCK_SIZE).to(tl.int64)
        offset = position % BLOCK_SIZE
        k = tl.load(
            keys + (block * stride_k_block + offset * stride_k_pos)[None, :] + d[:, None], mask=in_head[:, None], other=0.0
        )
        v = tl.load(
            values + (block * stride_v_block + offset * stride_v_pos)[:, None] + d[None, :],
            mask=in_head[None, :],
            other=0.0,
        )
        scores = tl.dot(q, k, input_precision=PRECISION) * scale_log2
        acc, row_max, row_sum = absorb(acc, row_max, row_sum, scores, v, PRECISION)

    bits = tl.load(ancestors + row, mask=live, other=0)
    for start in range(tl.maximum(begin, open_end), end, BLOCK_N):
        position = start + n
        inside = position < end
        block = tl.load(table + position // BLOCK_SIZE, mask=inside, other=0).to(tl.int64)
        offset = position % BLOCK_SIZE
        # Positions past the end may hold anything, NaN included: they are not read.
        k = tl.load(
            keys + (block * stride_k_block + offset * stride_k_pos)[None, :] + d[:, None],
            mask=inside[None, :] & in_head[:, None],
            other=0.0,
        )
        v = tl.load(
            values + (block * stride_v_block + offset * stride_v_pos)[:, None] + d[None, :],
            mask=inside[:, None] & in_head[None, :],
            other=0.0,
        )
        node = position - context
        bit = (bits[:, None] >> tl.maximum(node, 0).to(tl.int64)[None, :]) & 1
        seen = inside[None, :] & ((node < 0)[None, :] | (bit != 0))
        scores = tl.where(seen, tl.dot(q, k, input_precision=PRECISION) * scale_log2, float("-inf"))
        acc, row_max, row_sum = absorb(acc, row_max, row_sum, scores, v, PRECISION)

    acc = acc / tl.where(row_sum == 0, 1.0, row_sum)[:, None]
    if SPLIT:
        cell = (row * (tl.num_programs(1) * GROUP) + head) * num_splits + split
        tl.store(lse + cell, row_max + tl.log2(row_sum), mask=live)
        tl.store(out + cell[:, None] * HEAD_DIM + d[None, :], acc, mask=live[:, None] & in_head[None, :])
    else:
        target = out + (row * stride_o_row + head * stride_o_head)[:, None] + d[None, :]
        tl.store(target, acc.to(out.dtype.element_ty), mask=live[:, None] & in_head[None, :])


def tile_config(rows: int, head_dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes for so many query rows per KV head; chosen to spill on none of sm_80, sm_90 and sm_100."""
    block_d, wanted = triton.next_power_of_2(head_dim), max(16, triton.next_power_of_2(rows))
    if dtype == torch.float32:
        return dict(BLOCK_M=16, BLOCK_N=16, BLOCK_D=block_d, num_warps=4, num_stages=2)
    block_m, block_n = min(wanted, 128 if block_d < 128 else 64), 64 if block_d <= 128 else 32
    num_warps = 8 if block_m * block_d >= 64 * 128 else 4
    return dict(BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_D=block_d, num_warps=num_warps, num_stages=2)


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
    """Launcher of the kernel. num_splits overrides the choice; max_context_len defaults to what the block table can hold."""
    rows, heads, head_dim = query.shape
    requests, (block_size, num_kv_heads) = context_lens.shape[0], key_cache.shape[1:3]
    group = heads // num_kv_heads
    out = torch.empty_like(query) if out is None else out
    config = tile_config(min(max_num_nodes, rows) * group, head_dim, query.dtype)
    tiles = triton.cdiv(min(max_num_nodes, rows) * group, config["BLOCK_M"])
    if num_splits is None:
        longest = max_context_len or block_table.shape[1] * block_size
        num_splits = choose_splits(tiles * num_kv_heads * requests, longest, config["BLOCK_N"], query.device)
    target, lse = out, None
    if num_splits > 1:
        target = query.new_empty(rows, heads, num_splits, head_dim, dtype=torch.float32)
        lse = query.new_empty(rows, heads, num_splits, dtype=torch.float32)
    tree_attention_kernel[(tiles * num_splits, num_kv_heads, requests)](
        query, key_cache, value_cache, target, lse, block_table, context_lens, cu_nodes, ancestors,
        scale * math.log2(math.e), query.stride(0), query.stride(1), *key_cache.stride()[:3], *value_cache.stride()[:3],
        out.stride(0), out.stride(1), block_table.stride(0), num_splits,
        BLOCK_SIZE=block_size, GROUP=group, HEAD_DIM=head_dim, SPLIT=num_splits > 1,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32", **config,
    )  # fmt: skip
    if num_splits > 1:
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
