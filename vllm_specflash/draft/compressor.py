"""Latent-guided compression of a visual span (arXiv 2505.12728): the paper's form, and one that knows places.

Both are a softmax over the span's positions, which a span that arrives in chunks can resume. An engine therefore calls

    rows = compressor.rows(hidden, first, length, embeddings)       per chunk, [T, D] -> [T, D']
    state = latent_compress(compressor.queries, rows, bounds, state)        triton_kernels, [M H, D'] over [T, D']
    latents = compressor.latents(state.finish())                    once the span has ended, [M H, D'] -> [M, D]

and `forward` does the same in one go, for training.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization

FORMS = ("paper", "placed", "none")
FEATURES = ("states", "embeddings", "both")


@dataclass(frozen=True)
class Pooling:
    """How many rows a visual span leaves, and of which of its positions.

    Attributes:
        latents: M, rows that are left of a span, or of each of its pieces; never more than it has positions.
        longest: positions that M latents pool at most. A longer span is cut into the fewest pieces that this allows, of like
            length and in order, each of which is pooled like a span of its own: so M grows with the picture. None: no span is cut.
    """

    latents: int
    longest: int | None = None

    @property
    def cuts(self) -> bool:
        """Whether any span is cut. What leaves no rows is hidden as a whole."""
        return self.longest is not None and self.latents > 0

    def cut(self, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Pieces of spans, both as (start, length)."""
        if not self.cuts:
            return list(spans)
        pieces = []
        for start, length in spans:
            count = max(1, -(-length // self.longest))
            bounds = [start + length * i // count for i in range(count + 1)]
            pieces += [(a, b - a) for a, b in zip(bounds, bounds[1:])]
        return pieces

    def __str__(self) -> str:
        return f"{self.latents} latents" + (f" per {self.longest} positions" if self.cuts else "")


class LatentCompressor(nn.Module):
    """The paper's: M learned queries that pool the target's hidden states, softmax(A F^T) F, without a scale."""

    # Queries per latent, one after the other.
    heads = 1

    def __init__(self, num_latents: int, hidden_size: int):
        super().__init__()
        self.queries = nn.Parameter(torch.empty(num_latents, hidden_size))

    def num_rows(self, span_length: int) -> int:
        """Latents a span of that many positions leaves: min(M, N)."""
        return min(self.queries.shape[0], span_length)

    def rows(self, hidden: Tensor, first: int, length: int, embeddings: Tensor | None = None) -> Tensor:
        """What is pooled of positions first, first + 1, ... of a span of `length`: hidden [T, D] -> [T, D']."""
        return hidden

    def latents(self, pooled: Tensor) -> Tensor:
        """The draft's input rows out of what was pooled: [M H, D'] -> [M, D]."""
        return pooled

    def weights(self, rows: Tensor) -> Tensor:
        """What every query weighs each of a whole span's rows, [N, D'] -> [M H, N] float32; they sum to 1."""
        return torch.softmax((self.queries.to(rows.dtype) @ rows.T).float(), dim=-1)

    def looks(self, rows: Tensor) -> Tensor:
        """The same by latent, the mean over its heads: [N, D'] -> [min(M, N), N] float32."""
        return self.weights(rows).unflatten(0, (-1, self.heads)).mean(1)[: self.num_rows(len(rows))]

    def forward(self, features: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """One whole span, features [N, D] and, where the form wants them, embeddings [N, D] -> [min(M, N), D]."""
        length = features.shape[0]
        rows = self.rows(features, 0, length, embeddings)
        return self.latents(self.weights(rows).to(rows.dtype) @ rows)[: self.num_rows(length)]

    def initialise(self, std: float) -> None:
        initialization.normal_(self.queries, std=std)


class PlacedCompressor(LatentCompressor):
    """H queries per latent that ask for a place and for content, and a projection of what they find.

    A position's row is [its features, normalised; where it lies], the latter as weights over P bins along the span (one bin
    each where N = P, interpolated otherwise). So a query is a content query beside a bias per bin, and the pooled row says
    where it came from.

    Args:
        num_latents: M. hidden_size: D. positions: P. heads: H.
        features: "states" (the target's last hidden states), "embeddings" (what the projector gave the target) or "both".
        eps: of the normalisation.
        whole: whether what is pooled is a whole picture, and no piece of one.
    """

    def __init__(
        self, num_latents: int, hidden_size: int, positions: int, heads: int, features: str, eps: float, whole: bool = True
    ):
        nn.Module.__init__(self)
        self.num_latents, self.heads, self.positions = num_latents, heads, positions
        self.features, self.eps, self.whole = features, eps, whole
        wide = hidden_size * (2 if features == "both" else 1)
        self.queries = nn.Parameter(torch.empty(num_latents * heads, wide + positions))
        self.projection = nn.Linear(heads * (wide + positions), hidden_size)
        self.own = nn.Parameter(torch.empty(num_latents, hidden_size))

    def num_rows(self, span_length: int) -> int:
        return min(self.num_latents, span_length)

    def rows(self, hidden: Tensor, first: int, length: int, embeddings: Tensor | None = None) -> Tensor:
        parts = {"states": (hidden,), "embeddings": (embeddings,), "both": (hidden, embeddings)}[self.features]
        content = [F.rms_norm(part.float(), part.shape[-1:], eps=self.eps) for part in parts]
        return torch.cat((*content, self._places(first, len(hidden), length, hidden.device)), dim=-1).to(hidden.dtype)

    def _places(self, first: int, count: int, length: int, device: torch.device) -> Tensor:
        """[count, P]: a position halfway between the middles of two bins weighs half in each."""
        middles = torch.arange(first, first + count, dtype=torch.float32, device=device)
        middles = (middles + 0.5) * (self.positions / length) - 0.5
        bins = torch.arange(self.positions, device=device)
        return (1 - (middles.clamp(0, self.positions - 1)[:, None] - bins).abs()).clamp(min=0)

    def latents(self, pooled: Tensor) -> Tensor:
        pooled = pooled.to(self.projection.weight.dtype)
        return self.projection(pooled.reshape(self.num_latents, -1)) + self.own

    def initialise(self, std: float) -> None:
        """Latents begin as windows: cells of a square grid where M and P are squares, else stretches of the positions in order.

        A piece of a picture is some of its lines, and no square.
        """
        side, across = round(self.positions**0.5), round(self.num_latents**0.5)
        if self.whole and side * side == self.positions and across * across == self.num_latents:
            at, middle = _grid(side), _grid(across)
            distance = (at[None] - middle[:, None]).square().sum(-1) * across**2
        else:
            at, middle = (((torch.arange(n) + 0.5) / n) for n in (self.positions, self.num_latents))
            distance = (at[None] - middle[:, None]).square() * self.num_latents**2
        # Next to no content query: what is worth asking for is learned from what the windows hold.
        queries = torch.randn_like(self.queries) * (std / self.queries.shape[1] ** 0.5)
        queries[:, -self.positions :] = (-4 * distance).repeat_interleave(self.heads, 0)
        initialization.copy_(self.queries, queries)
        initialization.zeros_(self.own)


def _grid(side: int) -> Tensor:
    """[side^2, 2] middles of a unit square's cells, row by row."""
    middles = (torch.arange(side) + 0.5) / side
    return torch.cartesian_prod(middles, middles)


def compressor_of(config) -> LatentCompressor:
    """The form that a draft's config asks for."""
    # Without latents there is nothing to place.
    if config.compressor != "placed" or not config.num_latents:
        return LatentCompressor(0 if config.pooling is None else config.num_latents, config.hidden_size)
    return PlacedCompressor(
        config.num_latents, config.hidden_size, config.latent_positions, config.latent_heads, config.visual_features,
        config.rms_norm_eps, config.pool_length is None,
    )  # fmt: skip
