"""Visual spans and the compressed sequence: pure functions of where a request's spans lie.

A span of N positions keeps the draft's M latents in its last M slots; its first N - M positions are hidden from the
draft. A picture is one span, or several in a row where the draft pools it in pieces. *Target position* counts in the full
sequence, *draft position* in the compressed one:

    draft(p) = p - (hidden positions before p)

Everything is vectorised over the requests of a batch; nothing is accumulated from step to step.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Multimodal items that the compressor pools; others (audio) stay in the draft's sequence position by position.
VISUAL = ("image", "video")
# Beyond any position: pads requests that have fewer spans than the batch's most.
FAR = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Spans:
    """The visual spans of one request, in order.

    Attributes:
        start, end: [S] target positions, end exclusive.
        latents: [S] rows each is pooled into, min(M, N).
    """

    start: np.ndarray
    end: np.ndarray
    latents: np.ndarray

    @classmethod
    def of(cls, ranges: list[tuple[int, int]], num_latents: int) -> "Spans":
        """From (offset, length) pairs in any order."""
        ordered = np.array(sorted(ranges), dtype=np.int64).reshape(-1, 2)
        start, length = ordered[:, 0], ordered[:, 1]
        return cls(start, start + length, np.minimum(length, num_latents))

    def with_holes(self, holes: list[tuple[int, int]]) -> "Spans":
        """With text that the draft keeps no rows of, as (start, end) in order: hidden like a span that leaves no latents."""
        if not holes:
            return self
        start, end = np.array(holes, dtype=np.int64).T
        order = np.argsort(np.concatenate((self.start, start)))
        parts = ((self.start, start), (self.end, end), (self.latents, np.zeros_like(start)))
        return Spans(*(np.concatenate(part)[order] for part in parts))

    def __len__(self) -> int:
        return len(self.start)

    @cached_property
    def last_end(self) -> int:
        """Position from which on there is only text."""
        return int(self.end[-1]) if len(self) else 0


class SpanBatch:
    """Spans of R requests as [R, S] tables, S the most any of them has (often 0)."""

    def __init__(self, requests: list[Spans]):
        rows, width = len(requests), max((len(spans) for spans in requests), default=0)
        self.start = np.full((rows, width), FAR, dtype=np.int64)
        self.end = np.full((rows, width), FAR, dtype=np.int64)
        self.hidden = np.zeros((rows, width), dtype=np.int64)
        for row, spans in enumerate(requests):
            count = len(spans)
            if count:
                self.start[row, :count] = spans.start
                self.end[row, :count] = spans.end
                self.hidden[row, :count] = spans.end - spans.start - spans.latents
        # In the compressed sequence, hidden span k begins where everything hidden before it has been removed.
        self.compressed_start = self.start - (np.cumsum(self.hidden, axis=1) - self.hidden)

    def is_visual(self, requests: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Whether target positions [T] of requests [T] lie inside a span, [T] bool."""
        visual = np.zeros(len(positions), dtype=bool)
        for k in range(self.start.shape[1]):
            visual |= (positions >= self.start[requests, k]) & (positions < self.end[requests, k])
        return visual

    def draft_positions(self, requests: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Draft positions of visible target positions [T] (text, or one of a span's last M), [T]."""
        drafted = positions.copy()
        for k in range(self.start.shape[1]):
            past = positions >= self.start[requests, k] + self.hidden[requests, k]
            drafted -= past * self.hidden[requests, k]
        return drafted

    def visible_positions(self, requests: np.ndarray, length: int) -> np.ndarray:
        """Target positions of draft positions 0..length-1 for requests [Q], [Q, length]."""
        compressed = np.tile(np.arange(length, dtype=np.int64), (len(requests), 1))
        visible = compressed
        for k in range(self.start.shape[1]):
            past = compressed >= self.compressed_start[requests, k : k + 1]
            visible = visible + past * self.hidden[requests, k : k + 1]
        return visible
