"""Latent-guided compression of visual spans, resumable across prefill chunks.

Source: SpecFLASH (arXiv 2505.12728), equation of the latent-guided compressor, over the visual positions of one span:

    F_hat = softmax(A F^T) F          A [M, D] learned queries, F [N, D] the target's last hidden states

A span may arrive over several chunks, so the softmax runs online (Milakov and Gimelshein, arXiv 1805.02867): for each
latent keep the running max m, the sum s of exp(score - m) and the weighted sum acc of the hidden states. For a chunk C:

    m'   = max(m, max_j A F_j)                    j over the rows of C
    s'   = s   exp(m - m') + sum_j exp(A F_j - m')
    acc' = acc exp(m - m') + sum_j exp(A F_j - m') F_j
    F_hat = acc / s                               once the span has ended
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._softmax import row_stride
from ._triton import launch, launches, tl, triton

# Rows of hidden states per tile, hidden dimensions per loop step of the scores, output columns per program of the pooling.
ROWS, STEP, COLUMNS = 32, 64, 64
# Programs the scores kernel is cut into along the hidden dimension while the batch is small.
ENOUGH_PROGRAMS, MAX_PARTS = 256, 8


class CompressState(NamedTuple):
    """Partial compression of S spans with M latents each; all float32.

    max [S, M] largest score so far, -inf before the first row; sum [S, M]; acc [S, M, D].
    """

    max: Tensor
    sum: Tensor
    acc: Tensor

    @classmethod
    def empty(cls, num_spans: int, num_latents: int, hidden_size: int, device: torch.device | str = "cpu"):
        """The state of spans of which nothing has arrived."""
        return cls(
            torch.full((num_spans, num_latents), -torch.inf, device=device),
            torch.zeros(num_spans, num_latents, device=device),
            torch.zeros(num_spans, num_latents, hidden_size, device=device),
        )

    def finish(self) -> Tensor:
        """F_hat [S, M, D] float32; zeros for a span of which no row arrived."""
        # A touched sum holds exp(0) = 1 for the largest score, so the clamp only ever meets an untouched one.
        return self.acc / self.sum.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1)


def latent_compress_torch(queries: Tensor, hidden: Tensor, cu_seqlens: Tensor, state: CompressState) -> CompressState:
    """Torch path of `latent_compress`: one pair of matrix products per span."""
    out = CompressState(*(part.clone() for part in state))
    queries = queries.float()
    bounds = cu_seqlens.tolist()
    for span, (start, end) in enumerate(zip(bounds, bounds[1:])):
        if start == end:
            continue
        features = hidden[start:end].float()
        scores = queries @ features.T
        new_max = torch.maximum(out.max[span], scores.amax(-1))
        rescale = (out.max[span] - new_max).exp_()
        weights = scores.sub_(new_max.unsqueeze(-1)).exp_()
        out.max[span] = new_max
        out.sum[span].mul_(rescale).add_(weights.sum(-1))
        out.acc[span].mul_(rescale.unsqueeze(-1)).addmm_(weights, features)
    return out


@triton.jit(do_not_specialize=["num_rows"])
def scores_kernel(
    queries, hidden, scores, num_rows, stride_scores, stride_query, stride_hidden,
    M: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """A F^T over one part of the hidden dimension, for ROWS rows and BLOCK_M latents; scores [parts, M, T or more] float32."""
    part = tl.program_id(2)
    width = tl.cdiv(tl.cdiv(D, tl.num_programs(2)), STEP) * STEP
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    acc = tl.zeros([BLOCK_M, ROWS], tl.float32)
    for start in range(part * width, tl.minimum((part + 1) * width, D), STEP):
        d = start + tl.arange(0, STEP)
        a = tl.load(
            queries + m[:, None] * stride_query + d[None, :], mask=(m < M)[:, None] & (d < D)[None, :], other=0.0
        )
        f = tl.load(
            hidden + t.to(tl.int64)[None, :] * stride_hidden + d[:, None],
            mask=(t < num_rows)[None, :] & (d < D)[:, None],
            other=0.0,
        )
        acc = tl.dot(a, f.to(tl.float32), acc, input_precision="tf32x3")
    cell = (part * M + m).to(tl.int64)[:, None] * stride_scores + t[None, :]
    tl.store(scores + cell, acc, mask=(m < M)[:, None] & (t < num_rows)[None, :])


@triton.jit(do_not_specialize=["num_parts"])
def pool_kernel(
    scores, hidden, cu_seqlens, old_max, old_sum, old_acc, new_max, new_sum, new_acc, num_parts, stride_scores, stride_hidden,
    M: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Online softmax of one span's chunk on top of its old state, for BLOCK_M latents and COLUMNS hidden dimensions."""
    span = tl.program_id(2).to(tl.int64)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    latent, column = m < M, d < D
    state = span * M + m
    cell, inside = state[:, None] * D + d[None, :], latent[:, None] & column[None, :]
    row_max = tl.load(old_max + state, mask=latent, other=0.0)
    row_sum = tl.load(old_sum + state, mask=latent, other=0.0)
    acc = tl.load(old_acc + cell, mask=inside, other=0.0)
    end = tl.load(cu_seqlens + span + 1)
    for start in range(tl.load(cu_seqlens + span), end, ROWS):
        t = start + tl.arange(0, ROWS)
        tile = tl.zeros([BLOCK_M, ROWS], tl.float32)
        for part in range(num_parts):
            tile += tl.load(
                scores + (part * M + m).to(tl.int64)[:, None] * stride_scores + t[None, :],
                mask=latent[:, None] & (t < end)[None, :],
                other=0.0,
            )
        tile = tl.where((t < end)[None, :], tile, float("-inf"))
        f = tl.load(
            hidden + t.to(tl.int64)[:, None] * stride_hidden + d[None, :],
            mask=(t < end)[:, None] & column[None, :],
            other=0.0,
        )
        top = tl.maximum(row_max, tl.max(tile, 1))
        rescale = tl.exp(row_max - top)
        weights = tl.exp(tile - top[:, None])
        row_sum = row_sum * rescale + tl.sum(weights, 1)
        acc = tl.dot(weights, f.to(tl.float32), acc * rescale[:, None], input_precision="tf32x3")
        row_max = top
    tl.store(new_acc + cell, acc, mask=inside)
    if tl.program_id(0) == 0:
        tl.store(new_max + state, row_max, mask=latent)
        tl.store(new_sum + state, row_sum, mask=latent)


def latent_compress_triton(queries: Tensor, hidden: Tensor, cu_seqlens: Tensor, state: CompressState) -> CompressState:
    """Launcher of the two kernels: scores of all rows, cut along D while the batch is small, then one softmax per span.

    Compiled once per M and D.
    """
    (latents, size), rows, spans = queries.shape, hidden.shape[0], cu_seqlens.shape[0] - 1
    queries, state = queries.float(), CompressState(*(part.contiguous() for part in state))
    block_m = min(max(16, triton.next_power_of_2(latents)), 64)
    row_tiles, latent_tiles = triton.cdiv(rows, ROWS), triton.cdiv(latents, block_m)
    parts = min(MAX_PARTS, triton.cdiv(size, STEP), triton.cdiv(ENOUGH_PROGRAMS, max(1, row_tiles * latent_tiles)))
    # Whole tiles of rows: the same alignment whatever the chunk's length, so that it makes no kernel of its own.
    scores = hidden.new_empty(parts, latents, row_tiles * ROWS, dtype=torch.float32)
    if rows:
        launch(scores_kernel, (row_tiles, latent_tiles, parts),
            queries, hidden, scores, rows, scores.stride(1), queries.stride(0), row_stride(hidden),
            M=latents, D=size, BLOCK_M=block_m, ROWS=ROWS, STEP=STEP, num_warps=4, num_stages=2,
        )  # fmt: skip
    out = CompressState(*(torch.empty_like(part) for part in state))
    if spans:
        # With 64 latents the pooling would spill on sm_80; the second tile finds the hidden states in L2.
        pool_m = min(block_m, 32)
        launch(pool_kernel, (triton.cdiv(size, COLUMNS), triton.cdiv(latents, pool_m), spans),
            scores, hidden, cu_seqlens, *state, *out, parts, scores.stride(1), row_stride(hidden),
            M=latents, D=size, BLOCK_M=pool_m, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=4, num_stages=2,
        )  # fmt: skip
    return out


def latent_compress(queries: Tensor, hidden: Tensor, cu_seqlens: Tensor, state: CompressState) -> CompressState:
    """Absorb one chunk of each of S spans into their states.

    queries [M, D] any float dtype; hidden [T, D] float32, bfloat16 or float16, the chunks' rows one span after the other,
contiguous along D;
    cu_seqlens [S + 1] int32, span s owning rows cu_seqlens[s] to cu_seqlens[s + 1] (equal: no row of it in this chunk).
    Scores and sums are float32. Returns a new state; the one given is left as it was.
    """
    compress = latent_compress_triton if launches(hidden) else latent_compress_torch
    return compress(queries, hidden, cu_seqlens, state)
