"""What the two attention kernels share: query rows, one step of the online softmax, and contexts split over programs.

Both work in base 2 (scores carry a factor log2 e), because the GPU's exponential is base 2. A program owns BLOCK_M rows
of one request and KV head: row m is head m % GROUP of the group in query row m // GROUP.
"""

import functools

import torch
from torch import Tensor

from ._triton import launch, tl, triton

# Programs per multiprocessor that splitting aims at: enough to hide memory latency without a long merge.
WAVES = 2
MAX_SPLITS = 128
MERGE_TILE = 16


@triton.jit
def load_query(query, row, head, live, stride_row, stride_head, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Query rows [M, D], zeros where a row is not live or beyond the head."""
    d = tl.arange(0, BLOCK_D)
    at = query + (row * stride_row + head * stride_head)[:, None] + d[None, :]
    return tl.load(at, mask=live[:, None] & (d < HEAD_DIM)[None, :], other=0.0)


@triton.jit
def absorb(
    acc, row_max, row_sum, q, keys, values, inside, seen, scale_log2,
    MASKED: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Online softmax over one tile of keys -> acc [M, D], row_max [M], row_sum [M].

    keys, values [N]: where each key's and value's row begins. MASKED: only rows `inside` [N] are read (what lies elsewhere
    may be NaN, or no memory at all), and scores count where `seen` [M, N] or [1, N].
    """
    d = tl.arange(0, BLOCK_D)
    in_head = d < HEAD_DIM
    if MASKED:
        k = tl.load(keys[None, :] + d[:, None], mask=inside[None, :] & in_head[:, None], other=0.0)
        v = tl.load(values[:, None] + d[None, :], mask=inside[:, None] & in_head[None, :], other=0.0)
    else:
        k = tl.load(keys[None, :] + d[:, None], mask=in_head[:, None], other=0.0)
        v = tl.load(values[:, None] + d[None, :], mask=in_head[None, :], other=0.0)
    scores = tl.dot(q, k, input_precision=PRECISION) * scale_log2
    if MASKED:
        scores = tl.where(seen, scores, float("-inf"))
    new_max = tl.maximum(row_max, tl.max(scores, 1))
    # A row that has seen nothing yet has no maximum to subtract: -inf - -inf would be NaN.
    shift = tl.where(new_max == float("-inf"), 0.0, new_max)
    rescale = tl.exp2(row_max - shift)
    weights = tl.exp2(scores - shift[:, None])
    row_sum = row_sum * rescale + tl.sum(weights, 1)
    acc = tl.dot(weights.to(v.dtype), v, acc * rescale[:, None], input_precision=PRECISION)
    return acc, new_max, row_sum


@triton.jit
def store_rows(
    out, lse, acc, row_max, row_sum, row, head, live, stride_row, stride_head, num_heads, split, num_splits,
    SPLIT: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """acc / row_sum to out; SPLIT: to this piece's place in out [T, H, S, Dh], and its log-sum-exp to lse [T, H, S]."""
    d = tl.arange(0, BLOCK_D)
    stored = live[:, None] & (d < HEAD_DIM)[None, :]
    acc = acc / tl.where(row_sum == 0, 1.0, row_sum)[:, None]
    if SPLIT:
        cell = (row * num_heads + head) * num_splits + split
        tl.store(lse + cell, row_max + tl.log2(row_sum), mask=live)
        # A piece that saw nothing has no result that anyone reads.
        tl.store(out + cell[:, None] * HEAD_DIM + d[None, :], acc, mask=stored & (row_sum > 0)[:, None])
    else:
        target = out + (row * stride_row + head * stride_head)[:, None] + d[None, :]
        tl.store(target, acc.to(out.dtype.element_ty), mask=stored)


@triton.jit(do_not_specialize=["num_splits"])
def merge_splits_kernel(
    partial, lse, out, stride_out_row, stride_out_head, num_splits,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """out = sum_s 2^lse_s partial_s / sum_s 2^lse_s for one (row, head); partial [T, H, S, Dh], lse [T, H, S]."""
    row, head = tl.program_id(0), tl.program_id(1)
    first = (row * tl.num_programs(1) + head).to(tl.int64) * num_splits
    d = tl.arange(0, BLOCK_D)
    top = float("-inf")
    for start in range(0, num_splits, TILE):
        s = start + tl.arange(0, TILE)
        top = tl.maximum(top, tl.max(tl.load(lse + first + s, mask=s < num_splits, other=float("-inf"))))
    shift = tl.where(top == float("-inf"), 0.0, top)
    acc = tl.zeros([BLOCK_D], tl.float32)
    total = 0.0
    for start in range(0, num_splits, TILE):
        s = start + tl.arange(0, TILE)
        weight = tl.exp2(tl.load(lse + first + s, mask=s < num_splits, other=float("-inf")) - shift)
        # A piece that saw nothing wrote no result: what lies there must not be read, let alone multiplied by zero.
        part = tl.load(
            partial + (first + s)[:, None] * HEAD_DIM + d[None, :],
            mask=(weight > 0)[:, None] & (d < HEAD_DIM)[None, :],
            other=0.0,
        )
        acc += tl.sum(weight[:, None] * part, 0)
        total += tl.sum(weight)
    acc = acc / tl.where(total == 0, 1.0, total)
    target = out + row.to(tl.int64) * stride_out_row + head * stride_out_head + d
    tl.store(target, acc.to(out.dtype.element_ty), mask=d < HEAD_DIM)


def split_buffers(out: Tensor, num_splits: int) -> tuple[Tensor, Tensor | None]:
    """Where an attention kernel writes: out itself, or [T, H, S, Dh] and [T, H, S] float32 for merge_splits."""
    if num_splits == 1:
        return out, None
    rows, heads, head_dim = out.shape
    partial = out.new_empty(rows, heads, num_splits, head_dim, dtype=torch.float32)
    return partial, out.new_empty(rows, heads, num_splits, dtype=torch.float32)


def merge_splits(partial: Tensor, lse: Tensor | None, out: Tensor) -> None:
    """Write out [T, H, Dh] from split_buffers; nothing is left to do where there is one split."""
    if lse is None:
        return
    rows, heads, num_splits, head_dim = partial.shape
    launch(
        merge_splits_kernel, (rows, heads), partial, lse, out, row_stride(out), out.stride(1), num_splits,
        HEAD_DIM=head_dim, BLOCK_D=triton.next_power_of_2(head_dim), TILE=MERGE_TILE, num_warps=4,
    )  # fmt: skip


def row_stride(rows: Tensor) -> int:
    """Stride of the first dimension; 0 for a single row, whose stride torch may report as anything.

    Triton compiles anew for a stride of 1 or one that 16 does not divide.
    """
    return rows.stride(0) if rows.shape[0] > 1 else 0


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if torch.cuda.is_available() else 1


def choose_splits(programs: int, longest: int, block: int, device: torch.device) -> int:
    """Pieces to cut every context into, so that few requests still fill the device.

    programs: how many have work without splitting; longest: an upper bound of the context; block: keys per loop step.
    Depends on shapes only, never on lengths held on the device, so that a captured graph stays valid.
    """
    sms = _multiprocessors(device) if device.type == "cuda" else 1
    wanted = triton.cdiv(WAVES * sms, programs)
    # Fewer than four steps per program would spend more on the merge than on the attention.
    return max(1, min(wanted, triton.cdiv(longest, 4 * block), MAX_SPLITS))
