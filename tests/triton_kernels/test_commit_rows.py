"""commit_rows: which rows were committed, which token follows each, and where the draft keeps them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.triton_kernels.commit_rows import (
    NULL_SLOT,
    CommittedRows,
    SlotSpans,
    commit_rows_torch,
    commit_rows_triton,
)

MAX_TOKENS, VOCABULARY = 64, 1000


def problem(requests, spans, verified=True):
    """requests: (slot, rows before the root, nodes, tokens before the root, emitted, accepted nodes); spans: by slot a list of
    (start, end, hidden)."""
    slot, lead, nodes, before, sampled = torch.tensor([request[:5] for request in requests], dtype=torch.int32).T
    rows, most = lead + nodes, max(map(len, spans))
    table = torch.full((3, len(spans), max(1, most)), 10**6, dtype=torch.int32)
    for at, ranges in enumerate(spans):
        for k, span in enumerate(ranges):
            table[:, at, k] = torch.tensor(span)
    accepted = [request[5] for request in requests]
    width = max(1, *map(len, accepted))
    total = int(rows.sum())
    # Token t of slot s is 100 s + t, but one that no embedding has.
    tokens = (100 * torch.arange(len(spans)).unsqueeze(1) + torch.arange(MAX_TOKENS)).int()
    tokens[:, 13] = -1
    return dict(
        slot_of=slot.contiguous(),
        row_bounds=torch.nn.functional.pad(rows.cumsum(0), (1, 0)).int(),
        node_bounds=torch.nn.functional.pad(nodes.cumsum(0), (1, 0)).int(),
        seq_lens=before + nodes,
        sampled=sampled.contiguous(),
        nodes=torch.tensor([a + [-1] * (width - len(a)) for a in accepted], dtype=torch.int32) if verified else None,
        lengths=torch.tensor([len(a) for a in accepted], dtype=torch.int32) if verified else None,
        tokens=tokens,
        slot_mapping=torch.arange(total) + 500,
        spans=SlotSpans(torch.tensor([len(ranges) for ranges in spans], dtype=torch.int32), *table),
        vocab_size=VOCABULARY,
        most_rows=int(rows.max()),
        out=CommittedRows.empty(total, len(requests), "cpu"),
    )


def test_accepted_nodes_follow_the_root_and_rejected_rows_are_not_kept():
    args = problem([(1, 0, 4, 20, 3, [2, 3])], [[], []])
    commit_rows_torch(**args)
    out = args["out"]
    assert out.source.tolist() == [0, 2, 3, 3]
    assert out.next_tokens.tolist() == [121, 122, 123, 0]
    assert out.positions.tolist() == [20, 21, 22, 23]
    assert out.slots.tolist() == [500, 501, 502, NULL_SLOT]
    assert out.query_rows.tolist() == [2] and out.visible.tolist() == [23]


def test_a_prompt_with_a_picture_keeps_its_text_at_draft_positions():
    args = problem([(0, 5, 1, 15, 1, [])], [[(11, 14, 2)]], verified=False)
    commit_rows_torch(**args)
    out = args["out"]
    assert out.next_tokens.tolist() == [11, 12, 0, 14, 15, 16]
    assert out.slots.tolist() == [500, NULL_SLOT, NULL_SLOT, NULL_SLOT, 504, 505]
    assert out.positions[[0, 4, 5]].tolist() == [10, 12, 13]
    assert out.query_rows.tolist() == [5] and out.visible.tolist() == [14]


@pytest.mark.parametrize("sampled, end", [(0, 9), (1, 16)])
def test_mid_prefill_and_behind_a_picture_nothing_is_asked_for(sampled, end):
    args = problem([(0, 3, 1, 15, sampled, [])], [[(8, end, 1)]], verified=False)
    commit_rows_torch(**args)
    assert args["out"].visible.tolist() == [0]


@st.composite
def steps(draw):
    requests = []
    for slot in draw(st.permutations(range(3)))[: draw(st.integers(1, 3))]:
        nodes = draw(st.integers(1, 6))
        accepted = sorted(draw(st.sets(st.integers(1, nodes - 1)))) if nodes > 1 else []
        lead = draw(st.sampled_from([0, 0, 2, 9]))
        requests.append((slot, lead, nodes, draw(st.integers(lead, MAX_TOKENS - nodes)), draw(st.integers(0, 2)), accepted))
    spans = []
    for _ in range(3):
        at, ranges = 0, []
        for gap, length in draw(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=3)):
            ranges.append((at + gap, at + gap + length, draw(st.integers(0, length - 1))))
            at += gap + length
        spans.append(ranges)
    return requests, spans


@pytest.mark.kernel
@given(step=steps(), verified=st.booleans())
@settings(max_examples=40)
def test_kernel_agrees_with_torch_path(on_device, step, verified):
    args, expected = on_device(problem(*step, verified)), problem(*step, verified)
    commit_rows_triton(**args)
    commit_rows_torch(**expected)
    for part, other in zip(args["out"], expected["out"]):
        assert torch.equal(part.cpu(), other)
