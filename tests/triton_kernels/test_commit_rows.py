"""commit_rows: the draft's inputs are the sequence's positions in their order, with what follows each, at their own slots."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.triton_kernels.commit_rows import (
    NULL_SLOT,
    CommittedRows,
    SlotSpans,
    commit_rows,
    commit_rows_torch,
    commit_rows_triton,
)

SLOTS, WIDTH, MOST_SPANS, MAX_TOKENS, VOCABULARY = 5, 6, 4, 96, 50
UNTOUCHED = -77


def spans_by_slot(spans: dict[int, list[tuple[int, int, int]]]) -> SlotSpans:
    """(start, end, hidden) of each slot's spans; what lies beyond a slot's count is rubbish."""
    table = torch.full((3, SLOTS, MOST_SPANS), 1)
    count = torch.zeros(SLOTS, dtype=torch.int32)
    for slot, ranges in spans.items():
        count[slot] = len(ranges)
        for k, span in enumerate(ranges):
            table[:, slot, k] = torch.tensor(span)
    return SlotSpans(count, *table.int())


def arguments(requests, spans, seed: int = 0) -> dict:
    """requests: (slot, rows, nodes, tokens with the step's rows, accepted nodes, emitted tokens) each."""
    generator = torch.Generator().manual_seed(seed)
    slots, rows, nodes, tokens, accepted, emitted = zip(*requests)
    total = sum(rows)
    ids = torch.randint(-3, VOCABULARY + 4, (SLOTS, MAX_TOKENS), generator=generator)
    padded = torch.tensor([walk + [-1] * (WIDTH - 1 - len(walk)) for walk in accepted]).int()
    return dict(
        slot_of=torch.tensor(slots),
        row_bounds=torch.tensor([0, *rows]).cumsum(0).int(),
        node_bounds=torch.tensor([0, *nodes]).cumsum(0).int(),
        seq_lens=torch.tensor(tokens).int(),
        sampled=torch.tensor(emitted).int(),
        nodes=padded if any(n > 1 for n in nodes) else None,
        lengths=torch.tensor([len(walk) for walk in accepted]).int() if any(n > 1 for n in nodes) else None,
        tokens=ids.int(),
        slot_mapping=1000 + torch.randperm(total, generator=generator),
        spans=spans_by_slot(spans),
        vocab_size=VOCABULARY,
        most_rows=max(rows),
    )


def run(op, requests, args: dict, to=lambda x: x) -> CommittedRows:
    out = CommittedRows.empty(sum(request[1] for request in requests) + 2, len(requests) + 1, "cpu")
    for part in out:
        part.fill_(UNTOUCHED)
    out = CommittedRows(*map(to, out))
    args = {**{name: to(value) for name, value in args.items()}, "spans": SlotSpans(*map(to, args["spans"]))}
    op(**args, out=out)
    return CommittedRows(*(part.cpu() for part in out))


def check(op, requests, spans, seed: int = 0, to=lambda x: x) -> None:
    """Every number that the docstring speaks of, position by position."""
    args = arguments(requests, spans, seed)
    out = run(op, requests, args, to)
    first = 0
    for request, (slot, rows, nodes, tokens, accepted, emitted) in enumerate(requests):
        of_slot, lead, begin = spans.get(slot, []), rows - nodes, tokens - rows

        def draft(position):
            hidden = sum(1 for start, _, hidden in of_slot for p in range(start, start + hidden) if p < position)
            return position - hidden

        def visual(position):
            return any(start <= position < end for start, end, _ in of_slot)

        # The prompt's rows, the root, the accepted nodes: one position each, in this order.
        committed = [*range(lead + 1), *(lead + node for node in accepted)]
        for i, row in enumerate(committed):
            position = begin + i
            assert out.source[first + i] == first + row
            if position + 1 < MAX_TOKENS:
                assert out.next_tokens[first + i] == min(max(int(args["tokens"][slot, position + 1]), 0), VOCABULARY - 1)
            if visual(position):
                assert out.slots[first + i] == NULL_SLOT
            else:
                assert out.slots[first + i] == args["slot_mapping"][first + i]
                assert out.positions[first + i] == draft(position)
        assert (out.slots[first + len(committed) : first + rows] == NULL_SLOT).all()
        last = begin + len(committed) - 1
        assert out.query_rows[request] == first + len(committed) - 1
        assert out.visible[request] == (draft(last) + 1 if emitted and not visual(last) else 0)
        assert out.ends[request] == (min(last + 2, MAX_TOKENS) if out.visible[request] else 0)
        first += rows
    for part in out[:4]:
        assert (part[first:] == UNTOUCHED).all()
    assert out.query_rows[-1] == out.visible[-1] == out.ends[-1] == UNTOUCHED


IMAGES = {0: [(2, 10, 5), (14, 22, 5)], 1: [(0, 4, 0)], 3: [(3, 20, 13)]}
# Slot, rows, nodes, tokens with the step's, accepted nodes, emitted tokens.
SHAPES = {
    "uniform decodes, side paths": [(4, 6, 6, 40, [2, 5], 3), (0, 6, 6, 33, [], 1), (2, 6, 6, 30, [1, 2, 3, 4, 5], 6)],
    "cut drafts": [(0, 3, 3, 44, [2], 2), (1, 1, 1, 9, [], 1), (2, 2, 2, 12, [1], 2)],
    "a prompt in mid-prefill": [(2, 8, 1, 8, [], 0), (0, 7, 1, 7, [], 0)],
    "a span over several chunks": [(3, 6, 1, 9, [], 0), (0, 5, 1, 17, [], 0)],
    "a prompt's last chunk": [(3, 9, 1, 24, [], 1), (0, 24, 1, 24, [], 1)],
    "a prompt that ends right behind a picture": [(0, 9, 1, 23, [], 1), (3, 21, 1, 21, [], 1)],
    "a prompt that ends in a picture": [(3, 5, 1, 20, [], 1), (1, 4, 1, 4, [], 1)],
    "prompts beside decodes": [(4, 6, 6, 40, [3], 2), (2, 18, 1, 18, [], 1), (0, 6, 4, 26, [2, 3], 3)],
    "after a prompt with pictures": [(0, 6, 6, 40, [1, 3, 4], 4), (3, 6, 6, 50, [4], 2), (1, 1, 1, 5, [], 1)],
    "the model's longest length": [(2, 3, 3, MAX_TOKENS, [1, 2], 3), (4, 2, 2, MAX_TOKENS, [], 1)],
}


@pytest.mark.parametrize("requests", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("spans", [IMAGES, {}], ids=["pictures", "text"])
def test_rows_of_a_step(requests, spans):
    check(commit_rows, requests, spans)


@st.composite
def steps(draw):
    """Any batch that vLLM could form, and any spans."""
    spans, requests = {}, []
    for slot in draw(st.permutations(range(SLOTS)))[: draw(st.integers(1, SLOTS))]:
        edges = sorted(draw(st.sets(st.integers(0, 50), max_size=2 * MOST_SPANS)))
        pairs = zip(edges[::2], edges[1::2])
        spans[slot] = [(start, end, draw(st.integers(0, end - start - 1))) for start, end in pairs]
        nodes = draw(st.integers(1, WIDTH))
        rows = nodes + draw(st.sampled_from([0, 0, 1, 3, 30]))
        accepted = sorted(draw(st.sets(st.integers(1, WIDTH - 1), max_size=WIDTH - 1)))
        accepted = [node for node in accepted if node < nodes]
        emitted = draw(st.sampled_from([len(accepted) + 1] * 3 + [0])) if not accepted else len(accepted) + 1
        requests.append((slot, rows, nodes, draw(st.integers(rows, MAX_TOKENS)), accepted, emitted))
    return requests, spans


@given(steps(), st.integers(0, 2**20))
@settings(max_examples=80)
def test_any_step(step, seed):
    check(commit_rows, *step, seed)


@pytest.mark.kernel
@pytest.mark.parametrize("requests", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("spans", [IMAGES, {}], ids=["pictures", "text"])
def test_kernel_on_rows_of_a_step(on_device, requests, spans):
    check(commit_rows_triton, requests, spans, to=on_device)


@pytest.mark.kernel
@given(steps(), st.integers(0, 2**20))
@settings(max_examples=25)
def test_kernel_agrees_with_torch_path(on_device, step, seed):
    requests, spans = step
    args = arguments(requests, spans, seed)
    check(commit_rows_triton, requests, spans, seed, on_device)
    for part, expected in zip(run(commit_rows_triton, requests, args, on_device), run(commit_rows_torch, requests, args)):
        assert torch.equal(part, expected)


@pytest.mark.kernel
def test_kernel_on_more_rows_than_one_program_takes(on_device):
    requests = [(2, 300, 1, 300, [], 1), (4, 3, 3, 40, [2], 2)]
    args = arguments(requests, {})
    args["tokens"] = torch.arange(400).repeat(SLOTS, 1).int()
    for part, expected in zip(run(commit_rows_triton, requests, args, on_device), run(commit_rows_torch, requests, args)):
        assert torch.equal(part, expected)
