"""What the two attention kernels share: one step of the online softmax, and the merge of contexts split over programs.

Both work in base 2 (scores carry a factor log2 e), because the GPU's exponential is base 2.
"""

import functools

import torch
from torch import Tensor

from ._triton import tl, triton

# Programs per multiprocessor that splitting aims at: enough to hide memory latency without a long merge.
WAVES = 2
MAX_SPLITS = 128
MERGE_TILE = 16


@triton.jit
def absorb(acc, row_max, row_sum, scores, value, PRECISION: tl.constexpr):
    """Online softmax over one tile: scores [M, N] (base 2, -inf where invisible), value [N, D] -> acc, row_max, row_sum."""
    new_max = tl.maximum(row_max, tl.max(scores, 1))
    # A row that has seen nothing yet has no maximum to subtract: -inf - -inf would be NaN.
    shift = tl.where(new_max == float("-inf"), 0.0, new_max)
    rescale = tl.exp2(row_max - shift)
    weights = tl.exp2(scores - shift[:, None])
    row_sum = row_sum * rescale + tl.sum(weights, 1)
    acc = tl.dot(weights.to(value.dtype), value, acc * rescale[:, None], input_precision=PRECISION)
    return acc, new_max, row_sum


@triton.jit
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
        # A split without work wrote no partial result: what lies there must not be read, let alone multiplied by zero.
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


def merge_splits(partial: Tensor, lse: Tensor, out: Tensor) -> None:
    """Write out [T, H, Dh] from partial [T, H, S, Dh] float32 and lse [T, H, S] float32 (base 2, -inf: nothing seen)."""
    rows, heads, num_splits, head_dim = partial.shape
    merge_splits_kernel[(rows, heads)](
        partial, lse, out, out.stride(0), out.stride(1), num_splits,
        HEAD_DIM=head_dim, BLOCK_D=triton.next_power_of_2(head_dim), TILE=MERGE_TILE, num_warps=4,
    )  # fmt: skip


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def choose_splits(programs: int, longest: int, block: int, device: torch.device) -> int:
    """Pieces to cut every context into, so that few requests still fill the device.

    programs: how many there are without splitting; longest: an upper bound of the context; block: keys per loop step. Depends
    on shapes only, never on lengths held on the device, so that a captured graph stays valid.
    """
    sms = _multiprocessors(device) if device.type == "cuda" else 1
    wanted = triton.cdiv(WAVES * sms, programs)
    # Fewer than four steps per program would spend more on the merge than on the attention.
    return max(1, min(wanted, triton.cdiv(longest, 4 * block), MAX_SPLITS))
