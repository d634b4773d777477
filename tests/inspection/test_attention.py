"""The draft's attention computed anew: the same weights, and each at the position that it belongs to."""

import numpy as np
import pytest
import torch

from vllm_specflash.draft import core
from vllm_specflash.engine.spans import SpanBatch, Spans
from vllm_specflash.lab.inspection.attention import first_question
from vllm_specflash.triton_kernels.draft_attention import SpanTable

BLOCK, BLOCKS, HEADS, KV_HEADS, SIZE = 8, 12, 6, 2, 16
RANGES = {"text": [], "one": [(3, 20)], "two": [(0, 9), (30, 40)], "shorter than its latents": [(5, 2), (12, 30)]}
LATENTS = 4


def _call(requests: list[Spans], committed: list[int]) -> dict:
    """Arguments of the draft's attention for requests of so many committed positions; slots in no order."""
    generator = torch.Generator().manual_seed(0)
    batch, rows = SpanBatch(requests), len(requests)
    last = batch.draft_positions(np.arange(rows), np.array(committed) - 1)
    blocks = torch.randperm(rows * BLOCKS, generator=generator).view(rows, BLOCKS).int()
    return dict(
        query=torch.randn(rows, HEADS, SIZE, generator=generator),
        key_cache=torch.randn(rows * BLOCKS * BLOCK, KV_HEADS, SIZE, generator=generator),
        value_cache=torch.randn(rows * BLOCKS * BLOCK, KV_HEADS, SIZE, generator=generator),
        block_table=blocks, block_size=BLOCK, visible=torch.from_numpy(last + 1).int(),
        spans=SpanTable(*(torch.from_numpy(part).int() for part in (batch.compressed_start, batch.hidden))),
        scale=SIZE**-0.5,
    )  # fmt: skip


@pytest.mark.parametrize("hole", [None, (80, 84)], ids=["whole", "with a hole"])
@pytest.mark.parametrize("ranges", RANGES)
def test_weights_times_values_are_what_the_draft_found(ranges, hole):
    spans = Spans.of(RANGES[ranges], LATENTS).with_holes([hole] if hole else [])
    call = _call([spans, Spans.of([(1, 50)], LATENTS)], [90, 60])
    with first_question() as asked:
        found = core.draft_attention(*call.values())
    (question,) = asked
    values = call["value_cache"][question.slots].repeat_interleave(HEADS // KV_HEADS, 1)
    torch.testing.assert_close(torch.einsum("hn,nhd->hd", question.weights(), values), found[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ranges", RANGES)
def test_shares_are_those_of_the_latents_slots(ranges):
    """Keys by which position p is e^{p mod 7} times as attractive as one whose key is zero."""
    spans = Spans.of(RANGES[ranges], LATENTS)
    call = _call([spans.with_holes([(80, 84)])], [90])
    call["query"] = torch.ones(1, HEADS, SIZE)
    call["scale"] = 1 / SIZE
    weight = np.exp(np.arange(BLOCK * BLOCKS) % 7)
    for position in range(BLOCK * BLOCKS):
        slot = int(call["block_table"][0, position // BLOCK]) * BLOCK + position % BLOCK
        call["key_cache"][slot] = position % 7
    with first_question() as asked:
        core.draft_attention(*call.values())
    seen = [p for p in range(90) if not 80 <= p < 84]
    expected = []
    for begin, length in RANGES[ranges]:
        kept = min(LATENTS, length)
        seen = [p for p in seen if not begin <= p < begin + length - kept]
        expected.append(list(range(begin + length - kept, begin + length)))
    total = weight[seen].sum()
    shares = asked[0].shares(RANGES[ranges])
    assert [len(of_span) for of_span in shares] == [len(of_span) for of_span in expected]
    for of_span, positions in zip(shares, expected):
        assert of_span == pytest.approx(weight[positions] / total, rel=1e-4)


def test_only_the_first_call_is_heard_and_only_within():
    call = _call([Spans.of([(3, 20)], LATENTS)], [60])
    attend = core.draft_attention
    with first_question() as asked:
        core.draft_attention(**call)
        core.draft_attention(**{**call, "query": torch.zeros_like(call["query"])})
    assert len(asked) == 1 and torch.equal(asked[0].query, call["query"][0])
    assert core.draft_attention is attend
    with pytest.raises(RuntimeError), first_question():
        core.draft_attention(**{**call, "query": torch.zeros(1, HEADS, SIZE + 1)})
    assert core.draft_attention is attend


def test_a_draft_that_pictures_are_hidden_from_looks_at_none():
    spans = Spans.of([(3, 20)], 0)
    with first_question() as asked:
        core.draft_attention(*_call([spans], [60]).values())
    assert asked[0].shares([(3, 20)]) == []
