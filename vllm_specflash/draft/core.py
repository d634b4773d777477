"""The drafting core: from the target's hidden states to tokens, their parents and their chances, on the device alone.

One function of tensors of fixed shapes, the same for every engine: no host copy, no shape that depends on values, no loop
over requests. Engines decide which rows were committed, where their keys and values lie and which requests want a draft.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vllm_specflash.draft.candidates import CANDIDATES, Candidates, candidates_of, joined
from vllm_specflash.draft.model import Attend, SpecFlashDraft
from vllm_specflash.tree.calibration import BINS
from vllm_specflash.triton_kernels.best_tree import BestTree, best_tree
from vllm_specflash.triton_kernels.draft_attention import SpanTable, draft_attention
from vllm_specflash.triton_kernels.find_copies import LONGEST, Copies
from vllm_specflash.triton_kernels.mix_copies import WEIGHTS
from vllm_specflash.triton_kernels.rope_store import frequencies, rope_store

# Copies are no longer: trees as deep cost tables of as many levels.
DEEPEST_COPY = 16


def copied_tokens(depth: int, num_nodes: int) -> int:
    """How long copies are beside drafts of that depth in trees of so many nodes."""
    return max(depth, min(num_nodes, DEEPEST_COPY))


class Pages(Protocol):
    """Where the draft's keys and values are kept.

    Attributes:
        keys, values: [num_slots, Hkv, Dh] views.
        block_size: slots per entry of the block table.
    """

    keys: Tensor
    values: Tensor
    block_size: int

    def write(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys and values [T, Hkv, Dh] at slots [T] int64."""


class Rows(NamedTuple):
    """T text positions that the draft has not seen yet."""

    hidden: Tensor
    """[T, feature_size], what the target tells of each: its hidden state h_p, and those of more layers."""
    next_tokens: Tensor
    """[T] int64, x_{p+1}."""
    positions: Tensor
    """[T] int64, draft positions."""
    slots: Tensor
    """[T] int64, where keys and values go."""


class Queries(NamedTuple):
    """R requests that want drafts, each from one of the step's rows."""

    rows: Tensor
    """[R] int64, index into the T rows."""
    visible: Tensor
    """[R] int32, draft positions that the row sees, its own included; 0 for a request that gets no draft."""
    block_table: Tensor
    """[R, max_blocks] int32."""
    spans: SpanTable
    """What of the block tables' positions the draft does not see."""
    deepest: Tensor
    """[R] int32, depth that no drafted token exceeds; 0 for a request that gets no draft."""
    chain: Tensor
    """[R] bool, requests whose drafts may not branch."""
    copies: Copies | None = None
    """What their texts say may come next, DraftingCore.copied tokens each; None where that is not asked."""


class Proposal(NamedTuple):
    """Drafts of R requests, n tokens each, best first and parents before children."""

    tree: BestTree
    candidates: Candidates

    @property
    def tokens(self) -> Tensor:
        """[R, n] int64, target token ids."""
        tree, (tokens, *_) = self
        cell = (tree.depth.long() - 1) * tokens.shape[2] + tree.candidate
        return tokens.flatten(1).gather(1, cell)


class DraftingCore:
    """
    Args:
        model: the draft.
        lm_head: Linear(D, V_d), the target's rows for the draft's vocabulary.
        embed: the target's embedding, token ids [T] -> [T, D].
        pages: of the draft's layer.
        depth: L, positions ahead that are proposed for.
        num_nodes: n, most tokens of a draft.
        max_visible: no request sees more draft positions.
        looks_up: whether drafts also copy what the request's own text reads like.
    """

    def __init__(
        self,
        model: SpecFlashDraft,
        lm_head: nn.Linear,
        embed: Callable[[Tensor], Tensor],
        pages: Pages,
        depth: int,
        num_nodes: int,
        max_visible: int | None = None,
        looks_up: bool = False,
    ):
        self.model, self.lm_head, self.embed, self.pages = model, lm_head, embed, pages
        self.depth, self.num_nodes, self.max_visible, self.looks_up = depth, num_nodes, max_visible, looks_up
        self.device, self.dtype = lm_head.weight.device, lm_head.weight.dtype
        self.width = min(CANDIDATES, lm_head.out_features)
        # Chances that trees are chosen by instead of the draft's own: [C] and [L - 1 or more, C, C].
        self.assumed: tuple[Tensor, Tensor] | None = None
        self._weights = torch.tensor(WEIGHTS, device=self.device)
        self._frequencies = frequencies(model.config.head_dim, model.config.rope_theta, self.device)

    @property
    def copied(self) -> int:
        """Tokens of a copy, as deep as drafts may be for one; 0 where nothing is looked up."""
        return copied_tokens(self.depth, self.num_nodes) if self.looks_up and self.assumed is None else 0

    @property
    def num_rounds(self) -> int:
        """Forwards of the draft a step."""
        return -(-self.depth // self.model.config.semi_ar_width)

    def remember(self, rows: Rows) -> None:
        """Keep keys and values of rows for which nothing is asked."""
        _, keys, values = self.model.attention.project(self.model.normed(self._fused(rows)), rows.positions)
        self.pages.write(rows.slots, keys, values)

    def remember_latents(self, latents: Tensor, positions: Tensor, slots: Tensor) -> None:
        """The same for latents [T, D] of spans that ended, at draft positions [T] and slots [T]."""
        latents = latents.to(self.dtype)
        _, keys, values = self.model.attention.project(self.model.normed(latents), positions)
        self.pages.write(slots, keys, values)

    def propose(self, rows: Rows, queries: Queries, ratio: Tensor, max_visible: int | None = None) -> Proposal:
        """Keep keys and values of the rows, and draft for every request.

        Args:
            ratio: [BINS + 1] float32, what chances are multiplied by (tree/calibration.py).
            max_visible: no request of the step sees more draft positions, where the host knows.
        """
        model, pages, drafted = self.model, self.pages, _Drafted([], [])

        def found(q: Tensor) -> Tensor:
            return draft_attention(
                q, pages.keys, pages.values, queries.block_table, pages.block_size, queries.visible, queries.spans,
                q.shape[-1] ** -0.5, *drafted.rows(), max_visible=max_visible or self.max_visible,
            )  # fmt: skip

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            drafted.append(k, v, model.config.semi_ar_width)
            return found(q)

        u = self._fused(rows)
        heads = model.attention.heads(model.normed(u))
        q = rope_store(heads, rows.positions, rows.slots, queries.rows, self._frequencies, pages.keys, pages.values)
        x = model.after_attention(u[queries.rows], found(q))
        return self._proposal(x, queries, attend, ratio)

    def measure(self, num_rows: int, requests: int) -> None:
        """A step's work on rows and requests that do not exist, without a cache: what it allocates is what vLLM measures."""
        device, size = self.device, self.model.config.feature_size
        indices = torch.zeros(num_rows, dtype=torch.int64, device=device)
        none = torch.zeros(requests, dtype=torch.int32, device=device)
        rows = Rows(torch.zeros(num_rows, size, dtype=self.dtype, device=device), indices, indices, indices)
        ratio = torch.ones(BINS + 1, device=device)
        nothing: Attend = lambda q, k, v: torch.zeros_like(q)  # noqa: E731
        x = self.model.layer(self._fused(rows), rows.positions, nothing, rows=indices[:requests])
        copies = Copies(indices.new_zeros(requests, self.copied), none + LONGEST) if self.copied else None
        asking = indices[:requests]
        queries = Queries(asking, none, none[:, None], SpanTable(none[:, None], none[:, None]), none, none > 0, copies)
        self._proposal(x, queries, nothing, ratio)

    def _proposal(self, x: Tensor, queries: Queries, attend: Attend, ratio: Tensor) -> Proposal:
        """The layer's output x [R, D] -> drafts; `attend` is for the positions of later rounds."""
        candidates = self._candidates(x, queries.visible, attend)
        if self.assumed is not None:
            first, following = self.assumed
            following = following[: self.depth - 1]
            candidates = Candidates(candidates.tokens, first.expand(len(x), -1), following.expand(len(x), -1, -1, -1))
        elif queries.copies is not None:
            candidates = candidates.with_copies(queries.copies, self._weights)
        tree = best_tree(candidates.first, candidates.following, self.num_nodes, queries.deepest, queries.chain, ratio)
        return Proposal(tree, candidates)

    def _candidates(self, x: Tensor, visible: Tensor, attend: Attend) -> Candidates:
        """Unroll rounds of K positions from each x; a round continues from the greedy path of the one before."""
        model, per_round, rounds = self.model, self.model.config.semi_ar_width, []
        for drafted in range(0, self.depth, per_round):
            # Whole again where it was cut: a matrix product over a view with gaps takes many times as long on CPUs.
            hidden = model.predict(x)[:, : self.depth - drafted].contiguous()
            rounds.append(candidates_of(model, hidden, self.lm_head(hidden), self.width))
            if drafted + per_round < self.depth:
                u = model.fuse(self.embed(rounds[-1].chain().flatten()).to(hidden.dtype), hidden.flatten(0, 1))
                ahead = torch.arange(drafted, drafted + per_round, device=x.device)
                last = torch.arange(per_round - 1, len(u), per_round, device=x.device)
                x = model.layer(u, (visible[:, None] + ahead).flatten(), attend, rows=last)
        return joined(rounds)

    def _fused(self, rows: Rows) -> Tensor:
        return self.model.fuse(self.embed(rows.next_tokens).to(rows.hidden.dtype), rows.hidden)


@dataclass
class _Drafted:
    """Keys and values of the rounds before, which never enter the cache: [R, K, Hkv, Dh] each."""

    keys: list[Tensor]
    values: list[Tensor]

    def append(self, keys: Tensor, values: Tensor, per_round: int) -> None:
        self.keys.append(keys.unflatten(0, (-1, per_round)))
        self.values.append(values.unflatten(0, (-1, per_round)))

    def rows(self) -> tuple[Tensor | None, Tensor | None]:
        """All of them so far, [R, rounds * K, Hkv, Dh]; None before the second round."""
        return (torch.cat(self.keys, 1), torch.cat(self.values, 1)) if self.keys else (None, None)
