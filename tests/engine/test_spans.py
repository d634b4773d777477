"""The compressed sequence against a position-by-position count."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.engine.spans import SpanBatch, Spans


@st.composite
def layouts(draw):
    """(spans, latents, length): random gaps and spans, the sequence ending at or after the last span."""
    latents, cursor, ranges = draw(st.integers(1, 6)), 0, []
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 12)), max_size=4)):
        ranges.append((cursor + gap, length))
        cursor += gap + length
    return ranges, latents, cursor + draw(st.integers(0, 6))


def visible_by_hand(ranges, latents, length):
    hidden = {p for start, n in ranges for p in range(start, start + n - min(latents, n))}
    return [p for p in range(length) if p not in hidden]


@given(st.lists(layouts(), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_compressed_sequence_lists_text_and_latents_in_order(batch):
    spans = SpanBatch([Spans.of(ranges, latents) for ranges, latents, _ in batch])
    for request, (ranges, latents, length) in enumerate(batch):
        expected = visible_by_hand(ranges, latents, length)
        assert spans.visible_positions(np.array([request]), len(expected))[0].tolist() == expected
        requests = np.full(len(expected), request)
        drafted = spans.draft_positions(requests, np.array(expected, dtype=np.int64))
        assert drafted.tolist() == list(range(len(expected)))


@given(layouts())
@settings(max_examples=50, deadline=None)
def test_visual_positions_are_those_inside_spans(layout):
    ranges, latents, length = layout
    positions = np.arange(length)
    visual = SpanBatch([Spans.of(ranges, latents)]).is_visual(np.zeros(length, dtype=int), positions)
    inside = [any(start <= p < start + n for start, n in ranges) for p in positions]
    assert visual.tolist() == inside


def test_text_requests_cost_no_tables():
    assert SpanBatch([Spans.of([], 16)] * 3).start.shape == (3, 0)
