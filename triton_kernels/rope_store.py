"""Rotary positions of the draft's queries and keys, and keys and values into the cache, in one pass over their projection.

The projection holds H queries, Hkv keys and Hkv values of Dh numbers a row. With p the row's draft position and f_i = base^(-2i / Dh)
(rotary embedding, arXiv 2104.09864, in the half-split layout of Llama), for i < Dh / 2:

    rotated(x, p)[i]          = x[i] cos(p f_i) - x[i + Dh/2] sin(p f_i)
    rotated(x, p)[i + Dh/2]   = x[i + Dh/2] cos(p f_i) + x[i] sin(p f_i)

    key_cache[slots[t]] = rotated(key(t), positions[t])         value_cache[slots[t]] = value(t)
    query[r] = rotated(query(rows[r]), positions[rows[r]])
"""

import torch
from torch import Tensor

from ._triton import launch, launches, tl, triton

# Heads that one program takes.
HEADS = 8


def frequencies(head_dim: int, base: float, device: torch.device | str | None = None) -> Tensor:
    """f [Dh / 2] float32."""
    return base ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / -head_dim)


def rotated(heads: Tensor, positions: Tensor, frequency: Tensor) -> Tensor:
    """heads [..., n, Dh] at positions [...], the same dtype out."""
    # The angles stay float32: bfloat16 cannot tell neighbouring positions apart beyond 256.
    angles = positions[..., None, None] * frequency
    cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def rope_store_torch(
    heads: Tensor, positions: Tensor, slots: Tensor, rows: Tensor, frequency: Tensor, key_cache: Tensor, value_cache: Tensor
) -> Tensor:
    """Torch path of `rope_store`."""
    kv_heads = key_cache.shape[1]
    num_heads = heads.shape[1] - 2 * kv_heads
    turning, values = heads.split((num_heads + kv_heads, kv_heads), dim=1)
    query, keys = rotated(turning, positions, frequency).split((num_heads, kv_heads), dim=1)
    key_cache[slots], value_cache[slots] = keys, values
    return query[rows]


@triton.jit(do_not_specialize=["num_rows"])
def rope_store_kernel(
    heads, positions, slots, rows, frequency, key_cache, value_cache, query, num_rows,
    stride_row, stride_k_slot, stride_k_head, stride_v_slot, stride_v_head,
    NUM_HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """BLOCK_H heads of a row: keys and values of row program_id(0), or beyond the rows the queries of one request."""
    index = tl.program_id(0).to(tl.int64)
    n = (tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H))[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    asks = index >= num_rows
    request = tl.maximum(index - num_rows, 0)
    row = tl.where(asks, tl.load(rows + request, mask=asks, other=0), index)
    head = tl.where(asks, n, n + NUM_HEADS)
    live = (n < tl.where(asks, NUM_HEADS, 2 * KV_HEADS)) & (d < HALF)
    source = heads + row * stride_row + head * (2 * HALF) + d
    first = tl.load(source, mask=live, other=0.0).to(tl.float32)
    second = tl.load(source + HALF, mask=live, other=0.0).to(tl.float32)

    angle = tl.load(positions + row).to(tl.float32) * tl.load(frequency + d, mask=d < HALF, other=0.0)
    cos, sin = tl.cos(angle), tl.sin(angle)
    turns = asks | (n < KV_HEADS)
    low = tl.where(turns, first * cos - second * sin, first)
    high = tl.where(turns, second * cos + first * sin, second)

    slot = tl.load(slots + row)
    key = key_cache + slot * stride_k_slot + n * stride_k_head
    value = value_cache + slot * stride_v_slot + (n - KV_HEADS) * stride_v_head
    target = tl.where(n < KV_HEADS, key, value)
    target = tl.where(asks, query + (request * NUM_HEADS + n) * (2 * HALF), target) + d
    tl.store(target, low.to(query.dtype.element_ty), mask=live)
    tl.store(target + HALF, high.to(query.dtype.element_ty), mask=live)


def rope_store_triton(
    heads: Tensor, positions: Tensor, slots: Tensor, rows: Tensor, frequency: Tensor, key_cache: Tensor, value_cache: Tensor
) -> Tensor:
    """Launcher of the kernel: one launch. Compiled once per shape of heads and layout of the caches."""
    (num_rows, all_heads, head_dim), kv_heads = heads.shape, key_cache.shape[1]
    num_heads, requests = all_heads - 2 * kv_heads, rows.shape[0]
    query = heads.new_empty(requests, num_heads, head_dim)
    launch(
        rope_store_kernel, (num_rows + requests, triton.cdiv(max(num_heads, 2 * kv_heads), HEADS)),
        heads, positions, slots, rows, frequency, key_cache, value_cache, query, num_rows,
        all_heads * head_dim, *key_cache.stride()[:2], *value_cache.stride()[:2], NUM_HEADS=num_heads, KV_HEADS=kv_heads,
        HALF=head_dim // 2, BLOCK_H=HEADS, BLOCK_D=triton.next_power_of_2(head_dim // 2), num_warps=2,
    )  # fmt: skip
    return query


def rope_store(
    heads: Tensor, positions: Tensor, slots: Tensor, rows: Tensor, frequency: Tensor, key_cache: Tensor, value_cache: Tensor
) -> Tensor:
    """Write keys and values of T rows into the caches, and return the queries [R, H, Dh] of the rows that ask.

    heads [T, H + 2 Hkv, Dh] contiguous; positions, slots [T] int64; rows [R] int64, indices into the T; frequency [Dh / 2]
    float32; key_cache, value_cache [num_slots, Hkv, Dh] of the heads' dtype, contiguous in the last dimension. Rows may share a slot that
    nobody reads; what one of them leaves there is anyone's guess.
    """
    store = rope_store_triton if launches(heads) else rope_store_torch
    return store(heads, positions, slots, rows, frequency, key_cache, value_cache)
