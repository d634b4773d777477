"""Room for a request's visual spans, and what becomes of one that has more."""

import numpy as np
import pytest
import torch

from vllm_specflash.draft.compressor import Pooling
from vllm_specflash.engine.spans import SpanBatch, Spans
from vllm_specflash.engine.v2.slots import MAX_PIECES, MAX_SPANS, SlotTables, spans_for


@pytest.mark.parametrize(
    "pooling, positions, room",
    [
        (None, 4096, MAX_SPANS), (Pooling(16), 4096, MAX_SPANS), (Pooling(0, 64), 4096, MAX_SPANS), (Pooling(16, 64), 1024, 64),
        (Pooling(16, 64), 2048, 128), (Pooling(16, 64), 5000, 256), (Pooling(16, 8), 1 << 20, MAX_PIECES),
    ],
)  # fmt: skip
def test_there_is_room_for_a_context_full_of_pieces(pooling, positions, room):
    assert spans_for(pooling, positions) == room
    if pooling is not None and pooling.longest and pooling.latents and room < MAX_PIECES:
        # As many as fit, each just long enough to be cut in two.
        spans = [(at, pooling.longest + 1) for at in range(0, positions - pooling.longest, pooling.longest + 1)]
        assert len(pooling.cut(spans)) <= room


@pytest.mark.parametrize("count, deepest", [(40, 5), (41, 0)])
def test_a_request_with_more_spans_than_there_is_room_for_gets_no_drafts(count, deepest):
    tables = SlotTables(3, 6, 5, torch.device("cpu"), max_spans=40)
    spans = Spans.of([(10 * k, 8) for k in range(count)], 2)
    tables.stage(1, spans, chain=False)
    tables.apply()
    assert tables.flags.deepest.tolist()[1] == deepest
    start, end, hidden = (part[1].numpy() for part in tables.spans[1:])
    batch = SpanBatch([spans])
    for table, values in ((start, batch.start), (end, batch.end), (hidden, batch.hidden)):
        assert np.array_equal(table, values[0, :40])
    assert np.array_equal(tables.flags.spans.start[1].numpy(), batch.compressed_start[0, :40])
