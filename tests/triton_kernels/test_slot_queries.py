"""slot_queries: every request asks as its slot says, and what a graph runs beyond the batch asks for nothing."""

import pytest
import torch

from vllm_specflash.triton_kernels.commit_rows import NULL_SLOT, CommittedRows
from vllm_specflash.triton_kernels.draft_attention import SpanTable
from vllm_specflash.triton_kernels.slot_queries import SlotFlags, SlotQueries, slot_queries, slot_queries_triton

SLOTS, REQUESTS, ROWS, SPANS = 5, 4, 1500, 3


def arguments(device="cpu"):
    """Three requests in slots 4, 0 and 2, the second of which sees nothing; 700 rows of 1500."""
    generator = torch.Generator().manual_seed(1)
    about = torch.randint(1, 9, (SLOTS + 1, 3), generator=generator, dtype=torch.int32)
    about[:, 0] = torch.tensor([0, 1, 1, 0, 1, 0])
    about[SLOTS, 1] = 0
    spans = torch.randint(0, 50, (4, SLOTS + 1, SPANS), generator=generator, dtype=torch.int32)
    about, spans = about.to(device), spans.to(device)
    flags = SlotFlags(about[:, 0], about[:, 1], SpanTable(spans[3], spans[2]))
    committed = CommittedRows.empty(ROWS, REQUESTS, device)
    for part in committed:
        part.fill_(9)
    committed.visible[1] = 0
    return torch.tensor([4, 0, 2], device=device), flags, committed, 700, SlotQueries.empty(REQUESTS, flags)


def check(slot_of, flags, committed, num_rows, out):
    assert out.slot_of.tolist() == [4, 0, 2, SLOTS]
    assert out.chain.tolist() == [True, False, True, False]
    assert out.deepest.tolist() == [int(flags.deepest[4]), 0, int(flags.deepest[2]), 0]
    for part, table in zip(out.spans, flags.spans):
        assert torch.equal(part, table[[4, 0, 2, SLOTS]])
    assert committed.visible.tolist() == [9, 0, 9, 0] and committed.query_rows.tolist() == [9, 9, 9, 0]
    assert committed.ends.tolist() == [9, 9, 9, 0]
    assert (committed.slots[:num_rows] == 9).all() and (committed.slots[num_rows:] == NULL_SLOT).all()
    assert (committed.source == 9).all()


def test_requests_ask_as_their_slots_say():
    args = arguments()
    slot_queries(*args)
    check(*args)


def test_before_the_first_step_nobody_asks():
    *_, out = arguments()
    assert out.slot_of.tolist() == [SLOTS] * REQUESTS
    assert out.cut(2).slot_of.data_ptr() == out.slot_of.data_ptr() and len(out.cut(2).spans.start) == 2


@pytest.mark.kernel
def test_kernel_agrees_with_torch_path(device):
    args = arguments(device)
    slot_queries_triton(*args)
    check(*args)
