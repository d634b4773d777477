"""Attention of the draft layer over a list of visible cache slots per request (pages of one slot).

Query row t of request r, in head h of KV head g = h // (H / Hkv), over the first n_t = visible[t] slots of r's list and
the first e_t = extra_visible[t] of its in-memory rows (scaled dot-product attention, arXiv 1706.03762, grouped KV heads
of arXiv 2305.13245):

    K = [key_cache[slots[r, :n_t], g]; extra_key[r, :e_t, g]]        V alike
    out[t, h] = softmax(scale * query[t, h] K^T) V

The slot list is in draft order, so causality is nothing but n_t. The in-memory rows are the predicted positions that
the second round of drafting attends to and that never enter the cache.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._softmax import absorb, choose_splits, merge_splits
from ._triton import tl, triton

# Above this many query rows in one request (a prefill) requests are attended one by one instead of padded to one batch.
PADDED_ROWS = 16
# Rows of the score matrix, heads of a group counted, that one call to SDPA gets: bounds the mask of a long prefill.
ROWS_PER_CALL = 1536


def _grouped(query: Tensor, num_kv_heads: int) -> Tensor:
    """[B, T, H, Dh] -> [B, Hkv, T * G, Dh]: the heads that share a KV head become rows, so that K and V are not repeated."""
    batch, rows, heads, head_dim = query.shape
    group = heads // num_kv_heads
    return query.view(batch, rows, num_kv_heads, group, head_dim).transpose(1, 2).reshape(batch, num_kv_heads, -1, head_dim)


def _ungrouped(out: Tensor, rows: int) -> Tensor:
    """[B, Hkv, T * G, Dh] -> [B, T, H, Dh]."""
    batch, num_kv_heads, _, head_dim = out.shape
    return out.view(batch, num_kv_heads, rows, -1, head_dim).transpose(1, 2).reshape(batch, rows, -1, head_dim)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """query [B, T, H, Dh], key and value [B, L, Hkv, Dh], mask [B, T, L] bool (None: all visible) -> [B, T, H, Dh].

    A row that sees nothing gives zeros (SDPA's own convention).
    """
    num_kv_heads = key.shape[2]
    group = query.shape[2] // num_kv_heads
    key, value = key.transpose(1, 2), value.transpose(1, 2)
    step = max(1, ROWS_PER_CALL // group)
    outs = []
    for start in range(0, query.shape[1], step):
        rows = query[:, start : start + step]
        rows_mask = None
        if mask is not None:
            rows_mask = mask[:, start : start + step].repeat_interleave(group, 1).unsqueeze(1)
        out = F.scaled_dot_product_attention(_grouped(rows, num_kv_heads), key, value, attn_mask=rows_mask, scale=scale)
        outs.append(_ungrouped(out, rows.shape[1]))
    return outs[0] if len(outs) == 1 else torch.cat(outs, 1)


def _one_request(query, key_cache, value_cache, slots, visible, scale, extra_key, extra_value, extra_visible) -> Tensor:
    """All query rows [T, H, Dh] of one request, its slot list [L_max] and its in-memory rows [E, Hkv, Dh] or None.

    K and V are cut to what the last row sees, so nothing of the padding is ever read.
    """
    rows = query.shape[0]
    length = int(visible.max())
    index = slots[:length]
    key, value = key_cache.index_select(0, index), value_cache.index_select(0, index)
    mask = None
    if rows > 1:
        mask = torch.arange(length, device=query.device) < visible.unsqueeze(1)
    if extra_key is not None:
        extra = int(extra_visible.max())
        key, value = torch.cat((key, extra_key[:extra])), torch.cat((value, extra_value[:extra]))
        if rows > 1:
            mask = torch.cat((mask, torch.arange(extra, device=query.device) < extra_visible.unsqueeze(1)), 1)
    mask = None if mask is None else mask.unsqueeze(0)
    return _attend(query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0), mask, scale).squeeze(0)


def _padded(rows: Tensor, position: Tensor | None, requests: int, width: int) -> Tensor:
    """Rows [T, ...] -> [R, width, ...] at flat positions [T] (None: the rows fill it as they are), zeros elsewhere."""
    if position is None:
        return rows.view(requests, width, *rows.shape[1:])
    out = rows.new_zeros(requests * width, *rows.shape[1:])
    return out.index_copy_(0, position, rows).view(requests, width, *rows.shape[1:])


def _batched(
    query, key_cache, value_cache, slots, visible, lengths, scale, extra_key, extra_value, extra_visible
) -> Tensor:
    """A few query rows per request, lengths [R] of them, as one padded batch."""
    requests, width = len(lengths), max(lengths)
    position = None
    if min(lengths) != width:
        position = torch.cat([torch.arange(r * width, r * width + n) for r, n in enumerate(lengths)]).to(query.device)
    padded_query = _padded(query, position, requests, width)
    padded_visible = _padded(visible, position, requests, width)

    last = padded_visible.amax(1, keepdim=True)
    length = int(last.max())
    column = torch.arange(length, device=query.device)
    # What lies beyond a request's own list may be anything, NaN included, and NaN survives any mask: read a slot that the
    # request sees instead. A request that sees none reads slot 0, and its rows are zeroed below.
    beyond = column >= last
    index = torch.where(beyond, torch.where(last > 0, slots[:, :1], 0), slots[:, :length]).view(-1)
    key = key_cache.index_select(0, index).view(requests, length, *key_cache.shape[1:])
    value = value_cache.index_select(0, index).view(requests, length, *value_cache.shape[1:])
    mask = column < padded_visible.unsqueeze(-1)
    blind = last[:, 0] == 0
    if blind.any():
        key[blind], value[blind] = 0, 0

    if extra_key is not None:
        padded_extra = _padded(extra_visible, position, requests, width)
        column = torch.arange(extra_key.shape[1], device=query.device)
        beyond = (column >= padded_extra.amax(1, keepdim=True))[..., None, None]
        key = torch.cat((key, extra_key.masked_fill(beyond, 0)), 1)
        value = torch.cat((value, extra_value.masked_fill(beyond, 0)), 1)
        mask = torch.cat((mask, column < padded_extra.unsqueeze(-1)), -1)

    out = _attend(padded_query, key, value, mask, scale).flatten(0, 1)
    return out if position is None else out.index_select(0, position)


def draft_attention_torch(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
    visible: Tensor,
    cu_q: Tensor,
    scale: float,
    extra_key: Tensor | None = None,
    extra_value: Tensor | None = None,
    extra_visible: Tensor | None = None,
) -> Tensor:
    """Torch path of `draft_attention`: gather each request's slots, then one fused SDPA over the batch."""
    if query.shape[0] == 0:
        return torch.empty_like(query)
    if slots.shape[0] == 1:
        extra_key = None if extra_key is None else extra_key[0]
        extra_value = None if extra_value is None else extra_value[0]
        return _one_request(
            query, key_cache, value_cache, slots[0], visible, scale, extra_key, extra_value, extra_visible
        )
    bounds = cu_q.tolist()
    lengths = [end - start for start, end in zip(bounds, bounds[1:])]
    if max(lengths) <= PADDED_ROWS:
        return _batched(
            query, key_cache, value_cache, slots, visible, lengths, scale, extra_key, extra_value, extra_visible
        )
    out = torch.empty_like(query)
    for request, (start, end) in enumerate(zip(bounds, bounds[1:])):
        if start == end:
            continue
        extras = (None, None, None)
        if extra_key is not None:
            extras = extra_key[request], extra_value[request], extra_visible[start:end]
        out[start:end] = _one_request(
            query[start:end], key_cache, value_cache, slots[request], visible[start:end], scale, *extras
        )
    return out


@triton.jit
def draft_attention_kernel(
    query, key_cache, value_cache, out, lse, slots, visible, cu_q, extra_key, extra_value, extra_visible, scale_log2,
    stride_q_row, stride_q_head, stride_k_slot, stride_k_head, stride_v_slot, stride_v_head,
    stride_ek_request, stride_ek_row, stride_ek_head, stride_ev_request, stride_ev_row, stride_ev_head,
    stride_o_row, stride_o_head, stride_slots, num_splits,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HAS_EXTRA: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One piece of the slot list, for BLOCK_M (query row, head of the group) rows of one request and KV head.

    SPLIT: out and lse take the piece's own result, [T, H, num_splits, Dh] and [T, H, num_splits] float32; otherwise out is the
    answer. The in-memory rows belong to the first piece.
    """
    num_tiles = tl.num_programs(0) // num_splits
    tile, split = tl.program_id(0) % num_tiles, tl.program_id(0) // num_tiles
    kv_head, request = tl.program_id(1), tl.program_id(2)
    first = tl.load(cu_q + request)
    rows = tl.load(cu_q + request + 1) - first
    if tile * BLOCK_M >= rows * GROUP:
        return

    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    live, in_head = m < rows * GROUP, d < HEAD_DIM
    row, head = (first + m // GROUP).to(tl.int64), kv_head * GROUP + m % GROUP
    q = tl.load(
        query + (row * stride_q_row + head * stride_q_head)[:, None] + d[None, :],
        mask=live[:, None] & in_head[None, :],
        other=0.0,
    )
    seen_by = tl.load(visible + row, mask=live, other=0)
    length = tl.max(seen_by)
    piece = tl.cdiv(tl.cdiv(length, num_splits), BLOCK_N) * BLOCK_N
    begin = split * piece
    end = tl.minimum(begin + piece, length)

    listed = slots + request.to(tl.int64) * stride_slots
    keys, values = key_cache + kv_head * stride_k_head, value_cache + kv_head * stride_v_head
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    n = tl.arange(0, BLOCK_N)
    # Tiles of this piece: first the slots, then the in-memory rows. One loop for both keeps the registers of one.
    slot_tiles = tl.cdiv(tl.maximum(end - begin, 0), BLOCK_N)
    tiles = slot_tiles
    if HAS_EXTRA:
        extra_seen = tl.where(split == 0, tl.load(extra_visible + row, mask=live, other=0), 0)
        extra_end = tl.max(extra_seen)
        tiles += tl.cdiv(extra_end, BLOCK_N)
        extra_keys = extra_key + request.to(tl.int64) * stride_ek_request + kv_head * stride_ek_head
        extra_values = extra_value + request.to(tl.int64) * stride_ev_request + kv_head * stride_ev_head
    for i in range(tiles):
        column = begin + i * BLOCK_N + n
        inside = column < end
        slot = tl.load(listed + column, mask=inside, other=0)
        k_base, k_row, v_base, v_row = keys, slot * stride_k_slot, values, slot * stride_v_slot
        limit = tl.minimum(seen_by, end)
        if HAS_EXTRA:
            in_list = i < slot_tiles
            extra = (i - slot_tiles) * BLOCK_N + n
            column = tl.where(in_list, column, extra)
            inside = column < tl.where(in_list, end, extra_end)
            limit = tl.where(in_list, limit, extra_seen)
            k_base, k_row = tl.where(in_list, keys, extra_keys), tl.where(in_list, k_row, extra.to(tl.int64) * stride_ek_row)
            v_base, v_row = tl.where(in_list, values, extra_values), tl.where(in_list, v_row, extra.to(tl.int64) * stride_ev_row)
        k = tl.load(k_base + k_row[None, :] + d[:, None], mask=inside[None, :] & in_head[:, None], other=0.0)
        v = tl.load(v_base + v_row[:, None] + d[None, :], mask=inside[:, None] & in_head[None, :], other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION) * scale_log2
        scores = tl.where(column[None, :] < limit[:, None], scores, float("-inf"))
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
    side = 16 if dtype == torch.float32 and block_d >= 128 else 32
    num_warps = 8 if block_d > 128 else 4
    return dict(BLOCK_M=min(wanted, side), BLOCK_N=side, BLOCK_D=block_d, num_warps=num_warps, num_stages=2)


def draft_attention_triton(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
    visible: Tensor,
    cu_q: Tensor,
    scale: float,
    extra_key: Tensor | None = None,
    extra_value: Tensor | None = None,
    extra_visible: Tensor | None = None,
    max_rows: int | None = None,
    num_splits: int | None = None,
) -> Tensor:
    """Launcher of the kernel. num_splits overrides the choice; max_rows defaults to T."""
    rows, heads, head_dim = query.shape
    requests, num_kv_heads = slots.shape[0], key_cache.shape[1]
    group = heads // num_kv_heads
    out = torch.empty_like(query)
    if rows == 0:
        return out
    widest = min(max_rows or rows, rows) * group
    config = tile_config(widest, head_dim, query.dtype)
    tiles = triton.cdiv(widest, config["BLOCK_M"])
    if num_splits is None:
        num_splits = choose_splits(tiles * num_kv_heads * requests, slots.shape[1], config["BLOCK_N"], query.device)
    target, lse = out, None
    if num_splits > 1:
        target = query.new_empty(rows, heads, num_splits, head_dim, dtype=torch.float32)
        lse = query.new_empty(rows, heads, num_splits, dtype=torch.float32)
    extra_strides = [0] * 6 if extra_key is None else [*extra_key.stride()[:3], *extra_value.stride()[:3]]
    draft_attention_kernel[(tiles * num_splits, num_kv_heads, requests)](
        query, key_cache, value_cache, target, lse, slots, visible, cu_q, extra_key, extra_value, extra_visible,
        scale * math.log2(math.e), query.stride(0), query.stride(1), *key_cache.stride()[:2], *value_cache.stride()[:2],
        *extra_strides, out.stride(0), out.stride(1), slots.stride(0), num_splits,
        GROUP=group, HEAD_DIM=head_dim, HAS_EXTRA=extra_key is not None, SPLIT=num_splits > 1,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32", **config,
    )  # fmt: skip
    if num_splits > 1:
        merge_splits(target, lse, out)
    return out


def draft_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
    visible: Tensor,
    cu_q: Tensor,
    scale: float,
    extra_key: Tensor | None = None,
    extra_value: Tensor | None = None,
    extra_visible: Tensor | None = None,
    max_rows: int | None = None,
) -> Tensor:
    """Attend T query rows of R requests to their visible slots; returns [T, H, Dh] in the query's dtype.

    query [T, H, Dh], rows of one request together, request r owning rows cu_q[r] to cu_q[r + 1] (none is allowed).
    key_cache, value_cache [num_slots, Hkv, Dh], any strides with a contiguous last dimension, the query's dtype.
    slots [R, L_max] int64, each request's visible slots in draft order; entries beyond what its rows see may be anything.
    visible [T] int32: how many leading entries of its request's list a row sees.
    cu_q [R + 1] int32.
    extra_key, extra_value [R, E, Hkv, Dh] with extra_visible [T] int32: rows outside the cache, seen after the slots.
    max_rows: upper bound of the rows of one request, known to the host (default T); sizes the GPU launch, nothing else.
    A row that sees nothing gives zeros. A NaN or garbage in one request's rows or slots never reaches another request.
    """
    if not query.is_cuda:
        return draft_attention_torch(
            query, key_cache, value_cache, slots, visible, cu_q, scale, extra_key, extra_value, extra_visible
        )
    return draft_attention_triton(
        query, key_cache, value_cache, slots, visible, cu_q, scale, extra_key, extra_value, extra_visible, max_rows
    )
