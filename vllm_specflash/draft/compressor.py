"""Latent-guided compression of a visual span (arXiv 2505.12728)."""

import torch
from torch import Tensor, nn


class LatentCompressor(nn.Module):
    """M learned queries that pool the target's hidden states over a visual span.

    The engine reads `queries` and runs the resumable softmax of triton_kernels.latent_compress; `forward` is the
    one-shot form that training uses.
    """

    def __init__(self, num_latents: int, hidden_size: int):
        super().__init__()
        self.queries = nn.Parameter(torch.empty(num_latents, hidden_size))

    def num_rows(self, span_length: int) -> int:
        """Latents a span of that many positions leaves: min(M, N)."""
        return min(self.queries.shape[0], span_length)

    def forward(self, features: Tensor) -> Tensor:
        """softmax(A F^T) F over one span: features F [N, D] -> [min(M, N), D]. No scale, as in the paper."""
        queries = self.queries[: self.num_rows(features.shape[0])]
        weights = torch.softmax((queries @ features.T).float(), dim=-1)
        return weights.to(features.dtype) @ features
