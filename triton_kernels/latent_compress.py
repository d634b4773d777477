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


def latent_compress(queries: Tensor, hidden: Tensor, cu_seqlens: Tensor, state: CompressState) -> CompressState:
    """Absorb one chunk of each of S spans into their states.

    queries [M, D] any float dtype; hidden [T, D] float32, bfloat16 or float16, the chunks' rows one span after the other;
    cu_seqlens [S + 1] int32, span s owning rows cu_seqlens[s] to cu_seqlens[s + 1] (equal: no row of it in this chunk).
    Scores and sums are float32. Returns a new state; the one given is left as it was.
    """
    return latent_compress_torch(queries, hidden, cu_seqlens, state)
