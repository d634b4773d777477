"""Pooling of visual spans that arrive over several prefill chunks.

The only state the draft keeps from step to step: for each span that has begun and not ended, the running softmax of
the compressor. It is dropped when the request restarts (its next chunk does not begin where the last one ended).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vllm_specflash.draft.compressor import LatentCompressor
from vllm_specflash.engine.spans import Spans
from vllm_specflash.engine.transfer import to_device
from vllm_specflash.triton_kernels.latent_compress import CompressState, latent_compress


@dataclass
class SpanChunk:
    """The rows of one span that this step computed.

    Attributes:
        req_id, request: whose, and its index in the batch.
        span: which of its spans.
        first, stop: target positions, stop exclusive.
        row: row of `first` in the step's hidden states.
        start, end: target positions at which the whole span begins and ends.
        count: latents that the span is pooled into.
    """

    req_id: str
    request: int
    span: int
    first: int
    stop: int
    row: int
    start: int
    end: int
    count: int


def chunks_of(spans: Spans, req_id: str, request: int, first: int, stop: int, row: int) -> list[SpanChunk]:
    """What of a request's spans lies in the positions first to stop, computed in the rows from `row` on."""
    chunks = []
    for k in np.flatnonzero((spans.start < stop) & (spans.end > first)).tolist():
        start, end, count = int(spans.start[k]), int(spans.end[k]), int(spans.latents[k])
        begin = max(first, start)
        chunks.append(SpanChunk(req_id, request, k, begin, min(stop, end), row + begin - first, start, end, count))
    return chunks


class Latents(NamedTuple):
    """Latents of the spans that ended in a step."""

    requests: np.ndarray
    """[L] index in the batch."""
    positions: np.ndarray
    """[L] target positions that they are kept at."""
    rows: Tensor
    """[L, D], the hidden states' dtype."""
    visual_tokens: int
    """That they were pooled from."""


@dataclass
class _Partial:
    state: CompressState
    began: int
    next: int


class SpanPooler:
    """Resumable pooling, keyed by request and span.

    Args:
        compressor: the draft's.
    """

    def __init__(self, compressor: LatentCompressor):
        self.compressor = compressor
        self._partial: dict[tuple[str, int], _Partial] = {}

    def latents(self, chunks: list[SpanChunk], hidden_states: Tensor, embeddings: Tensor | None = None) -> Latents:
        """Take in a step's chunks of spans; hidden_states [T, D] are the target's, of the step, embeddings [T, D or more] its inputs."""
        empty = np.empty(0, dtype=np.int64)
        requests, positions, visual_tokens = [empty], [empty], 0
        rows = [hidden_states.new_empty(0, hidden_states.shape[1])]
        for chunk, began, latents in self.pool(chunks, hidden_states, embeddings):
            slots = np.arange(chunk.end - chunk.count, chunk.end)
            # Latents in blocks that came from the prefix cache were pooled over the whole span: leave them be.
            kept = slots >= began
            requests.append(np.full(int(kept.sum()), chunk.request))
            positions.append(slots[kept])
            rows.append(latents.to(hidden_states.dtype)[chunk.count - int(kept.sum()) : chunk.count])
            visual_tokens += chunk.end - began
        return Latents(np.concatenate(requests), np.concatenate(positions), torch.cat(rows), visual_tokens)

    def pool(
        self, chunks: list[SpanChunk], hidden_states: Tensor, embeddings: Tensor | None = None
    ) -> list[tuple[SpanChunk, int, Tensor]]:
        """The same, span by span.

        Returns:
            For every span that ended: its chunk, the position its pooling began at (later than the span's start when
            the prefix cache held the first part), and its latents [M, D].
        """
        finished = []
        for chunk in chunks:
            if not chunk.count:
                # A draft that pictures are hidden from.
                continue
            key = (chunk.req_id, chunk.span)
            partial = self._partial.pop(key, None)
            if partial is None or partial.next != chunk.first:
                partial = _Partial(self._empty(), chunk.first, chunk.first)
            rows = self.rows(chunk, hidden_states, embeddings)
            bounds = to_device(np.array([0, len(rows)], dtype=np.int32), rows.device)
            partial.state = latent_compress(self.compressor.queries, rows, bounds, partial.state)
            partial.next = chunk.stop
            if chunk.stop == chunk.end:
                finished.append((chunk, partial.began, self.compressor.latents(partial.state.finish()[0])))
            else:
                self._partial[key] = partial
        return finished

    def rows(self, chunk: SpanChunk, hidden_states: Tensor, embeddings: Tensor | None) -> Tensor:
        """What is pooled of a chunk, [stop - first, D']."""
        of_chunk = slice(chunk.row, chunk.row + chunk.stop - chunk.first)
        states = hidden_states[of_chunk]
        # Wider where a target hands its layers more than the first one's inputs.
        inputs = None if embeddings is None else embeddings[of_chunk, : states.shape[1]]
        return self.compressor.rows(states, chunk.first - chunk.start, chunk.end - chunk.start, inputs)

    def forget(self, req_id: str) -> None:
        """Drop what is kept for a request that ended."""
        if self._partial:
            for key in [key for key in self._partial if key[0] == req_id]:
                del self._partial[key]

    def _empty(self) -> CompressState:
        queries = self.compressor.queries
        return CompressState.empty(1, *queries.shape, queries.device)
