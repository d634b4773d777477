"""A batch of samples as the draft sees it: which rows its compressed sequences have, and what each must predict.

Draft positions count in the compressed sequence: a text position t has the row fc[emb(x_{t+1}); h_t], a visual span
has as many latents as its Pooling says, and positions inside a span have no row of their own (without a Pooling they are text). The last
position of a sample has none either, since its next token is unknown.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vllm_specflash.draft.compressor import Pooling
from vllm_specflash.train.target import Sample


@dataclass
class Batch:
    """Index tensors over a batch of B samples padded to L target positions and S draft positions.

    Attributes:
        input_ids: [B, L].
        text_from: [n] flat target position b * L + t of each text row.
        text_to: [n] flat draft position b * S + s where it goes.
        spans: (flat start, length N, flat draft position of the first latent) of each visual span, or of each of its pieces.
        answer_rows: [P] flat draft positions that are trained: answer_start - 1 <= t < L_b - 2.
        answer_from: [P] their flat target positions t.
        valid: [P, K] whether h_{t+i} is a target of offset i, that is t + i <= L_b - 2.
        draft_length: S.
    """

    input_ids: Tensor
    text_from: Tensor
    text_to: Tensor
    spans: list[tuple[int, int, int]]
    answer_rows: Tensor
    answer_from: Tensor
    valid: Tensor
    draft_length: int

    @property
    def shape(self) -> torch.Size:
        return self.input_ids.shape

    def to(self, device: torch.device) -> "Batch":
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(**{name: v.to(device) if isinstance(v, Tensor) else v for name, v in moved.items()})

    def answer_positions(self) -> tuple[Tensor, Tensor]:
        """answer_from sample by sample: positions t [B, P], zeros behind a sample's last, and which of them are its own, [B, P] bool."""
        sample, position = self.answer_from // self.shape[1], self.answer_from % self.shape[1]
        count = sample.bincount(minlength=self.shape[0])
        given = torch.arange(int(count.max()), device=count.device) < count[:, None]
        rows = torch.zeros_like(given, dtype=torch.long)
        rows[given] = position
        return rows, given

    def targets(self) -> Tensor:
        """[P, K] flat target positions t + i, i = 1..K, of the hidden states that offset i must match.

        Where `valid` is false the position is clamped to the row's own and means nothing.
        """
        offsets = torch.arange(1, self.valid.shape[1] + 1, device=self.valid.device)
        return torch.where(self.valid, self.answer_from[:, None] + offsets, self.answer_from[:, None])


def layout(sample: Sample, pooling: Pooling | None) -> tuple[list[int], list[int], list[tuple[int, int, int]]]:
    """One sample's compressed sequence: text positions t, their draft positions s, and spans (start, N, s)."""
    positions, rows, spans = [], [], []
    position = row = 0
    compressed = [] if pooling is None else pooling.cut(sorted(sample.spans))
    for start, length in [*compressed, (len(sample) - 1, 0)]:
        count = start - position
        positions += range(position, start)
        rows += range(row, row + count)
        row += count
        if length:
            spans.append((start, length, row))
            row += min(pooling.latents, length)
        position = start + length
    return positions, rows, spans


def collate(samples: list[Sample], pooling: Pooling | None, width: int) -> Batch:
    """Lay out a batch for K = `width` offsets."""
    length = max(len(sample) for sample in samples)
    layouts = [layout(sample, pooling) for sample in samples]
    draft_length = max(
        max(rows[-1] + 1, *(s + min(pooling.latents, n) for _, n, s in spans), 0) for _, rows, spans in layouts
    )
    text_from, text_to, all_spans, answer_rows, answer_from, valid = [], [], [], [], [], []
    for b, (sample, (positions, rows, spans)) in enumerate(zip(samples, layouts, strict=True)):
        text_from += [b * length + t for t in positions]
        text_to += [b * draft_length + s for s in rows]
        all_spans += [(b * length + start, n, b * draft_length + s) for start, n, s in spans]
        last = len(sample) - 2
        # The prediction made at t starts with x_{t+2}: t = last has nothing left to predict.
        for t, s in zip(positions, rows, strict=True):
            if sample.answer_start - 1 <= t < last:
                answer_from.append(b * length + t)
                answer_rows.append(b * draft_length + s)
                valid.append([t + i <= last for i in range(1, width + 1)])
    return Batch(
        pad_sequence([sample.input_ids for sample in samples], batch_first=True),
        torch.tensor(text_from),
        torch.tensor(text_to),
        all_spans,
        torch.tensor(answer_rows, dtype=torch.long),
        torch.tensor(answer_from, dtype=torch.long),
        torch.tensor(valid, dtype=torch.bool).view(-1, width),
        draft_length,
    )
