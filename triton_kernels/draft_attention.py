"""Attention of the draft layer: one query row per request over the paged cache, hidden visual positions left out.

The query of request r sees the first n = visible[r] positions of its *draft* sequence, from which each visual span's
hidden positions are missing (METHOD). With spans k in order, start_k the draft position at which the k-th span's hidden
positions would begin and hidden_k how many they are, draft position c is target position

    p(c) = c + sum_k hidden_k [c >= start_k]

and lies in slot block_table[r, p // B] B + p % B of the cache. In head h of KV head g = h // (H / Hkv), with E in-memory
rows after the cache (scaled dot-product attention, arXiv 1706.03762, grouped KV heads of arXiv 2305.13245):

    K = [key_cache[slot(0..n-1), g]; extra_key[r, :, g]]        V alike
    out[r, h] = softmax(scale * query[r, h] K^T) V              0 where n = 0

The in-memory rows are the predicted positions that later rounds of drafting attend to and that never enter the cache.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._addresses import addresses
from ._softmax import absorb, choose_splits, load_query, merge_splits, row_stride, split_buffers, store_rows
from ._triton import launch, launches, tl, triton

# Bytes of keys that the torch path gathers at a time: a batch of long contexts gathered at once leaves the CPU's caches.
GATHERED_BYTES = 2 << 20
# Spans that the kernel adds up in one vector.
SPAN_TILE = 16


class SpanTable(NamedTuple):
    """Hidden visual positions of R requests, S spans each at most, in order."""

    start: Tensor
    """[R, S] int32: draft position at which the span's hidden positions would begin; int32's maximum in padding."""
    hidden: Tensor
    """[R, S] int32: how many target positions are hidden there; 0 in padding."""

    @classmethod
    def empty(cls, requests: int, device: torch.device | str = "cpu") -> "SpanTable":
        """The table of requests without visual spans, S = 0."""
        return cls(*(torch.empty(requests, 0, dtype=torch.int32, device=device) for _ in cls._fields))


def target_positions(draft_positions: Tensor, spans: SpanTable) -> Tensor:
    """p(c) of draft positions [R, L] int32 -> [R, L] int32."""
    if not spans.start.shape[1]:
        return draft_positions
    hidden_before = F.pad(spans.hidden.cumsum(1, dtype=torch.int32), (1, 0))
    return draft_positions + hidden_before.gather(1, torch.searchsorted(spans.start, draft_positions, right=True))


def draft_attention_torch(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    block_size: int,
    visible: Tensor,
    spans: SpanTable,
    scale: float,
    extra_key: Tensor | None = None,
    extra_value: Tensor | None = None,
    max_visible: int | None = None,
) -> Tensor:
    """Torch path of `draft_attention`: gather what is visible, then fused SDPA, a few requests at a time."""
    requests, heads, head_dim = query.shape
    num_kv_heads = key_cache.shape[1]
    length = block_table.shape[1] * block_size if max_visible is None else max_visible
    slots = torch.empty(requests, length, dtype=torch.int64)
    seen = torch.empty(requests, length, dtype=torch.bool)
    lengths, table, starts, hidden = (part.cpu().numpy() for part in (visible, block_table, *spans))
    all_seen = addresses(lengths, table, block_size, starts, hidden, slots.numpy(), seen.numpy())
    slots, seen = slots.to(query.device), seen.to(query.device)
    if extra_key is not None:
        seen = torch.cat((seen, seen.new_ones(requests, extra_key.shape[1])), 1)

    query = query.view(requests, num_kv_heads, -1, head_dim)
    chunk = max(1, GATHERED_BYTES // max(1, length * num_kv_heads * head_dim * key_cache.element_size()))
    outs = []
    for first in range(0, requests, chunk):
        of = slice(first, first + chunk)
        index = slots[of].reshape(-1)
        key = key_cache.index_select(0, index).view(-1, length, num_kv_heads, head_dim)
        value = value_cache.index_select(0, index).view(-1, length, num_kv_heads, head_dim)
        if extra_key is not None:
            key, value = torch.cat((key, extra_key[of]), 1), torch.cat((value, extra_value[of]), 1)
        # The heads that share a KV head are rows of one product, so that K and V are not repeated.
        mask = None if all_seen else seen[of, None, None]
        keys, values = key.transpose(1, 2), value.transpose(1, 2)
        outs.append(F.scaled_dot_product_attention(query[of], keys, values, attn_mask=mask, scale=scale))
    out = outs[0] if len(outs) == 1 else torch.cat(outs)
    if all_seen:
        return out.reshape(requests, heads, head_dim)
    return torch.where((visible > 0)[:, None, None], out.reshape(requests, heads, head_dim), 0)


@triton.jit(do_not_specialize=["stride_table", "stride_start", "stride_hidden", "num_spans", "num_extra", "num_splits"])
def draft_attention_kernel(
    query, key_cache, value_cache, out, lse, block_table, visible, span_start, span_hidden, extra_key, extra_value, scale_log2,
    stride_q_row, stride_q_head, stride_k_slot, stride_k_head, stride_v_slot, stride_v_head,
    stride_ek_request, stride_ek_row, stride_ek_head, stride_ev_request, stride_ev_row, stride_ev_head,
    stride_o_row, stride_o_head, stride_table, stride_start, stride_hidden, num_spans, num_extra, num_splits,
    BLOCK_SIZE: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, SPANS: tl.constexpr, SPAN_TILE: tl.constexpr,
    HAS_EXTRA: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One piece of a request's draft positions, for BLOCK_M heads of one group.

    SPLIT: out and lse take the piece's own result, [R, H, num_splits, Dh] and [R, H, num_splits] float32; otherwise out is the
    answer. The in-memory rows belong to the first piece.
    """
    num_tiles = tl.num_programs(0) // num_splits
    tile, split = tl.program_id(0) % num_tiles, tl.program_id(0) // num_tiles
    kv_head, request = tl.program_id(1), tl.program_id(2).to(tl.int64)
    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    live, head = m < GROUP, kv_head * GROUP + m
    row = tl.zeros([BLOCK_M], tl.int64) + request
    q = load_query(query, row, head, live, stride_q_row, stride_q_head, HEAD_DIM, BLOCK_D)

    length = tl.load(visible + request)
    piece = tl.cdiv(tl.cdiv(length, num_splits), BLOCK_N) * BLOCK_N
    begin = split * piece
    end = tl.minimum(begin + piece, length)

    table = block_table + request * stride_table
    keys, values = key_cache + kv_head * stride_k_head, value_cache + kv_head * stride_v_head
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    n = tl.arange(0, BLOCK_N)
    for start in range(begin, end, BLOCK_N):
        column = start + n
        inside = column < end
        position = column
        for first in tl.static_range(0, SPANS, SPAN_TILE):
            s = first + tl.arange(0, SPAN_TILE)
            starts = tl.load(span_start + request * stride_start + s, mask=s < num_spans, other=0)
            hidden = tl.load(span_hidden + request * stride_hidden + s, mask=s < num_spans, other=0)
            position += tl.sum(tl.where(column[:, None] >= starts[None, :], hidden[None, :], 0), 1)
        block = tl.load(table + position // BLOCK_SIZE, mask=inside, other=0).to(tl.int64)
        slot = block * BLOCK_SIZE + position % BLOCK_SIZE
        acc, row_max, row_sum = absorb(
            acc, row_max, row_sum, q, keys + slot * stride_k_slot, values + slot * stride_v_slot, inside, inside[None, :],
            scale_log2, True, HEAD_DIM, BLOCK_D, PRECISION,
        )  # fmt: skip
    if HAS_EXTRA:
        keys = extra_key + request * stride_ek_request + kv_head * stride_ek_head
        values = extra_value + request * stride_ev_request + kv_head * stride_ev_head
        for start in range(0, tl.where((split == 0) & (length > 0), num_extra, 0), BLOCK_N):
            column = (start + n).to(tl.int64)
            inside = column < num_extra
            acc, row_max, row_sum = absorb(
                acc, row_max, row_sum, q, keys + column * stride_ek_row, values + column * stride_ev_row, inside,
                inside[None, :], scale_log2, True, HEAD_DIM, BLOCK_D, PRECISION,
            )  # fmt: skip
    store_rows(
        out, lse, acc, row_max, row_sum, row, head, live, stride_o_row, stride_o_head, tl.num_programs(1) * GROUP,
        split, num_splits, SPLIT, HEAD_DIM, BLOCK_D,
    )  # fmt: skip


def tile_config(group: int, head_dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes for so many heads per KV head; chosen to spill on none of sm_80, sm_90 and sm_100."""
    block_d, wanted = triton.next_power_of_2(head_dim), max(16, triton.next_power_of_2(group))
    side = 16 if dtype == torch.float32 and block_d >= 128 else 32
    num_warps = 8 if block_d > 128 else 4
    return dict(BLOCK_M=min(wanted, side), BLOCK_N=side, BLOCK_D=block_d, num_warps=num_warps, num_stages=2)


def draft_attention_triton(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    block_size: int,
    visible: Tensor,
    spans: SpanTable,
    scale: float,
    extra_key: Tensor | None = None,
    extra_value: Tensor | None = None,
    max_visible: int | None = None,
    num_splits: int | None = None,
) -> Tensor:
    """Launcher of the kernel. num_splits overrides the choice.

    Compiled once per model, cache and width of the span table (rounded up: to a power of two, beyond 16 to a multiple of
    16), and once more each for in-memory rows and for contexts that are split: four kernels in all.
    """
    requests, heads, head_dim = query.shape
    num_kv_heads, num_spans = key_cache.shape[1], spans.start.shape[1]
    group = heads // num_kv_heads
    out = torch.empty_like(query)
    config = tile_config(group, head_dim, query.dtype)
    tiles = triton.cdiv(group, config["BLOCK_M"])
    if num_splits is None:
        longest = block_table.shape[1] * block_size if max_visible is None else max_visible
        num_splits = choose_splits(max(1, tiles * num_kv_heads * requests), longest, config["BLOCK_N"], query.device)
    target, lse = split_buffers(out, num_splits)
    extra_strides = [0] * 6 if extra_key is None else [*extra_key.stride()[:3], *extra_value.stride()[:3]]
    span_tile = min(SPAN_TILE, triton.next_power_of_2(max(1, num_spans)))
    launch(
        draft_attention_kernel, (tiles * num_splits, num_kv_heads, requests),
        query, key_cache, value_cache, target, lse, block_table, visible, *spans, extra_key, extra_value,
        scale * math.log2(math.e), row_stride(query), query.stride(1), *key_cache.stride()[:2], *value_cache.stride()[:2],
        *extra_strides, row_stride(out), out.stride(1), block_table.stride(0), *(part.stride(0) for part in spans),
        num_spans, 0 if extra_key is None else extra_key.shape[1], num_splits,
        BLOCK_SIZE=block_size, GROUP=group, HEAD_DIM=head_dim, SPANS=triton.cdiv(num_spans, span_tile) * span_tile,
        SPAN_TILE=span_tile, HAS_EXTRA=extra_key is not None, SPLIT=num_splits > 1,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32", **config,
    )  # fmt: skip
    merge_splits(target, lse, out)
    return out


def draft_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    block_size: int,
    visible: Tensor,
    spans: SpanTable,
    scale: float,
    extra_key: Tensor | None = None,
    extra_value: Tensor | None = None,
    max_visible: int | None = None,
) -> Tensor:
    """Attend one query row of each of R requests to what its draft sequence holds; returns [R, H, Dh], the query's dtype.

    query [R, H, Dh]. key_cache, value_cache [num_slots, Hkv, Dh], any strides with a contiguous last dimension, the query's
        dtype.
    block_table [R, max_blocks] int32, block_size slots an entry; entries beyond what a request sees may be anything.
    visible [R] int32: draft positions that the query sees. With 0 the result is 0 and nothing is read.
    spans: the requests' hidden positions; SpanTable.empty(R) for text.
    extra_key, extra_value [R, E, Hkv, Dh]: rows outside the cache, all of them seen.
    max_visible: an upper bound of visible, known to the host (default: what the block table can hold). On a CPU it is what
        the work grows with; on a GPU it sizes the launch, nothing else.
    A NaN or garbage in one request's rows or slots never reaches another request.
    """
    attend = draft_attention_triton if launches(query) else draft_attention_torch
    return attend(
        query, key_cache, value_cache, block_table, block_size, visible, spans, scale, extra_key, extra_value, max_visible
    )
