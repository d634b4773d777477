"""What a draft says of finished sequences, by the dense forward that it is trained with and transformers' own target.

No KV cache, no slots, no chunks: what an engine's draft says at a position must equal this, however the engine got there.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.draft.attention import dense_causal_attention
from vllm_specflash.draft.candidates import CANDIDATES, Candidates, candidates_of, joined
from vllm_specflash.train.batch import collate, layout
from vllm_specflash.train.forward import compressed_inputs
from vllm_specflash.train.target import Sample, Target

# Chances of two computations of one float32 network: the target's layers, its kernels and ours round in other places.
TOLERANCE = 1e-4


@dataclass
class Finished:
    """A request that an engine answered.

    Attributes:
        token_ids: prompt and answer, placeholders expanded.
        prompt_length: of them.
        images: of the prompt, in order.
        read_as: {position: token} where the draft's row before a position was kept by another request, which went on otherwise.
        pooled_from: {span: position} where the prefix cache held a span's first part, which was not pooled again.
        holes: (start, end) of positions whose rows the draft never kept; to those after them it is as if they were not there.
    """

    token_ids: list[int]
    prompt_length: int
    images: list = field(default_factory=list)
    read_as: dict[int, int] = field(default_factory=dict)
    pooled_from: dict[int, int] = field(default_factory=dict)
    holes: list[tuple[int, int]] = field(default_factory=list)


class DenseDraft:
    """
    Args:
        target: folder of a target that transformers and vLLM read alike.
        draft: folder of its draft.
    """

    def __init__(self, target: Path, draft: Path):
        self.target = Target(str(target), torch.float32)
        self.draft = SpecFlashDraft.from_pretrained(draft).eval().requires_grad_(False)
        self.target.layers = self.draft.config.trained_layers
        self.lm_head = self.draft.draft_lm_head(self.target.lm_head)
        self.pooling, self.width = self.draft.config.pooling, self.draft.config.semi_ar_width

    def sample(self, finished: Finished) -> Sample:
        """As training would read it; all of it counts as the answer, so that every text position is one to speak at."""
        ids, images, family = torch.tensor(finished.token_ids), finished.images, self.target.family
        spans, pixels = [], {}
        if images:
            spans = family.spans(ids, len(images))
            features = family.processor.image_processor(images, return_tensors="pt")
            pixels = {name: features[name] for name in family.pixel_names}
        return Sample("finished", "chat", ids, 1, spans, pixels, True)

    def says(self, finished: Finished) -> list[int]:
        """The target's own greedy answer, each token given those before it."""
        hidden = self.target.hidden_states([self.sample(finished)])[0, :, : self.draft.config.hidden_size]
        return (hidden[finished.prompt_length - 1 : -1] @ self.target.lm_head.T).argmax(-1).tolist()

    def rows(self, finished: Finished) -> int:
        """Of its compressed sequence."""
        return collate([self.sample(finished)], self.pooling, self.width).draft_length

    def candidates(
        self, finished: Finished, at: set[int] | None = None, without: int | None = None
    ) -> dict[int, Candidates]:
        """By target position t of text rows, candidates of one request, for x_{t+2} and on.

        Args:
            at: the positions that are wanted; None for all of them.
            without: a draft position before all of those, which none of them may attend to.
        """
        sample = self.sample(finished)
        positions, rows, _ = layout(sample, self.pooling)
        u = self._inputs(sample, finished)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if without is None:
                return dense_causal_attention(q, k, v)
            seen = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).tril()
            seen[without + 1 :, without] = False
            q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True).transpose(1, 2)

        wanted = [(t, row) for t, row in zip(positions, rows, strict=True) if at is None or t in at]
        if finished.holes:
            row_of = dict(zip(positions, rows, strict=True))
            return {t: self._after_holes(finished.holes, u, t, row_of, attend) for t, _ in wanted}
        x = self.draft.layer(u, torch.arange(u.shape[1])[None], attend)
        return {t: self._rounds(u[:, : row + 1], x[:, row], attend) for t, row in wanted}

    def _after_holes(self, holes: list[tuple[int, int]], u: Tensor, t: int, row_of: dict[int, int], attend) -> Candidates:
        missing = {row for position, row in row_of.items() if any(a <= position < b <= t for a, b in holes)}
        u = u[:, [row for row in range(row_of[t] + 1) if row not in missing]]
        x = self.draft.layer(u, torch.arange(u.shape[1])[None], attend)
        return self._rounds(u, x[:, -1], attend)

    def _inputs(self, sample: Sample, finished: Finished) -> Tensor:
        """Inputs u [1, S, D] of the compressed sequence."""
        batch, hidden = collate([sample], self.pooling, self.width), self.target.hidden_states([sample])
        for position, token in finished.read_as.items():
            # A token enters as what follows the row before it, and nowhere else.
            batch.input_ids[0, position] = token
        u = compressed_inputs(self.draft, batch, hidden, self.target.embedding)
        compressor = self.draft.compressor
        for span, began in finished.pooled_from.items():
            start, length, row = batch.spans[span]
            count = compressor.num_rows(length)
            again = min(count, start + length - began)
            told, size = hidden[0, began : start + length], self.draft.config.hidden_size
            rows = compressor.rows(told[:, :size], began - start, length, told[:, -size:])
            latents = compressor.latents(torch.softmax(compressor.queries @ rows.T, -1) @ rows)
            u[0, row + count - again : row + count] = latents[count - again : count]
        return u

    def _rounds(self, u: Tensor, x: Tensor, attend) -> Candidates:
        """Unroll rounds from the last of the rows u [1, S, D], with output x [1, D]: each goes on from the one before's tokens."""
        rounds = []
        for drafted in range(self.draft.config.num_rounds):
            if drafted:
                following = self.draft.fuse(self.target.embedding[rounds[-1].chain()[0]], hidden[0])
                u = torch.cat((u, following[None]), dim=1)
                x = self.draft.layer(u, torch.arange(u.shape[1])[None], attend)[:, -1]
            hidden = self.draft.predict(x)
            rounds.append(candidates_of(self.draft, hidden, hidden @ self.lm_head.T, min(CANDIDATES, len(self.lm_head))))
        return joined(rounds)


def by_token(candidates: Candidates) -> Candidates:
    """The same, in the order of token ids: equal chances may have been ranked either way."""
    order = candidates.tokens.argsort(-1)
    rows = order[:, :-1, :, None].expand(-1, -1, -1, order.shape[-1])
    columns = order[:, 1:, None].expand_as(rows)
    return Candidates(
        candidates.tokens.gather(2, order),
        candidates.first.gather(1, order[:, 0]),
        candidates.following.gather(2, rows).gather(3, columns),
    )


def apart(one: Candidates, other: Candidates) -> float:
    """The most that any chance of two differs by; 1 where they propose other tokens."""
    one, other = by_token(one), by_token(other)
    if not torch.equal(one.tokens, other.tokens):
        return 1.0
    parts = zip((one.first, one.following), (other.first, other.following), strict=True)
    return max(float((a - b).abs().max()) for a, b in parts if a.numel())
