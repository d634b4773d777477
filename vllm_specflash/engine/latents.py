"""Pooling of visual spans that arrive over several prefill chunks.

The only state the draft keeps from step to step: for each span that has begun and not ended, the running softmax of
the compressor. It is dropped when the request restarts (its next chunk does not begin where the last one ended).
"""

from dataclasses import dataclass

import torch

from vllm_specflash.triton_kernels.latent_compress import CompressState, latent_compress


@dataclass
class SpanChunk:
    """The rows of one span that this step computed.

    Attributes:
        request, span: whose, and which of its spans.
        first, stop: target positions, stop exclusive.
        row: row of `first` in the step's hidden states.
        end: target position at which the whole span ends.
    """

    request: str
    span: int
    first: int
    stop: int
    row: int
    end: int


@dataclass
class _Partial:
    state: CompressState
    began: int
    next: int


class SpanPooler:
    """Resumable pooling, keyed by request and span.

    Args:
        queries: A, [M, D].
    """

    def __init__(self, queries: torch.Tensor):
        self.queries = queries
        self._partial: dict[tuple[str, int], _Partial] = {}

    def pool(self, chunks: list[SpanChunk], hidden_states: torch.Tensor) -> list[tuple[SpanChunk, int, torch.Tensor]]:
        """Take in this step's chunks of spans.

        Args:
            hidden_states: [T, D], the target's, for the step.

        Returns:
            For every span that ended: its chunk, the position its pooling began at (later than the span's start when
            the prefix cache held the first part), and its latents [M, D] in float32.
        """
        finished = []
        for chunk in chunks:
            key = (chunk.request, chunk.span)
            partial = self._partial.pop(key, None)
            if partial is None or partial.next != chunk.first:
                partial = _Partial(self._empty(), chunk.first, chunk.first)
            rows = hidden_states[chunk.row : chunk.row + chunk.stop - chunk.first]
            bounds = torch.tensor([0, len(rows)], dtype=torch.int32, device=rows.device)
            partial.state = latent_compress(self.queries, rows, bounds, partial.state)
            partial.next = chunk.stop
            if chunk.stop == chunk.end:
                finished.append((chunk, partial.began, partial.state.finish()[0]))
            else:
                self._partial[key] = partial
        return finished

    def forget(self, request: str) -> None:
        """Drop what is kept for a request that ended."""
        if self._partial:
            for key in [key for key in self._partial if key[0] == request]:
                del self._partial[key]

    def _empty(self) -> CompressState:
        latents, size = self.queries.shape
        return CompressState.empty(1, latents, size, self.queries.device)
