"""Who asks the draft, out of what is kept of every slot; and rest for the rows and requests that a CUDA graph runs beyond the batch.

For request r of the R at hand, in slot s = slot_of(r), with what commit_rows found visible for it:

    deepest(r) = deepest[s] where visible(r) > 0, else 0        chain(r) = chain[s]        spans(r) = spans[s]

Requests beyond R see nothing, ask from row 0 and stand in the padding slot; rows beyond the T at hand go to the null slot.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._triton import launch, launches, tl, triton
from .commit_rows import NULL_SLOT, CommittedRows
from .draft_attention import SpanTable

# Rows that one program puts to rest.
ROWS = 1024


class SlotFlags(NamedTuple):
    """What of S request slots the draft's queries need; persistent, on the device. The last slot is padding."""

    chain: Tensor
    """[S] int32, not 0 where drafts may not branch."""
    deepest: Tensor
    """[S] int32, 0 for requests that get no drafts."""
    spans: SpanTable
    """[S, X]."""


class SlotQueries(NamedTuple):
    """The same by request of the step; persistent, for as many requests as an engine may have."""

    slot_of: Tensor
    """[R] int64."""
    chain: Tensor
    """[R] bool."""
    deepest: Tensor
    """[R] int32."""
    spans: SpanTable
    """[R, X]."""

    @classmethod
    def empty(cls, requests: int, flags: SlotFlags) -> "SlotQueries":
        """Room for so many requests."""
        like = flags.spans.start[:1].repeat(requests, 1)
        return cls(
            torch.full((requests,), len(flags.deepest) - 1, device=like.device), like[:, 0] != 0, like[:, 0].clone(),
            SpanTable(like.clone(), like.clone()),
        )  # fmt: skip

    def cut(self, requests: int) -> "SlotQueries":
        """Views of the first ones."""
        slot_of, chain, deepest, spans = self
        return SlotQueries(slot_of[:requests], chain[:requests], deepest[:requests], SpanTable(*(part[:requests] for part in spans)))


def slot_queries_torch(slot_of: Tensor, flags: SlotFlags, committed: CommittedRows, num_rows: int, out: SlotQueries) -> None:
    """Torch path of `slot_queries`."""
    requests = len(slot_of)
    committed.slots[num_rows:] = NULL_SLOT
    for part in (committed.query_rows, committed.visible, committed.ends):
        part[requests:] = 0
    out.slot_of[:requests], out.slot_of[requests:] = slot_of, len(flags.deepest) - 1
    out.chain[:] = flags.chain[out.slot_of] != 0
    out.deepest[:] = torch.where(committed.visible > 0, flags.deepest[out.slot_of], 0)
    for part, table in zip(out.spans, flags.spans):
        part[:] = table[out.slot_of]


@triton.jit(do_not_specialize=["requests", "all_requests", "num_rows", "all_rows", "padding"])
def slot_queries_kernel(
    slot_of, chain, deepest, start, hidden, slots, query_rows, visible, ends, out_slot_of, out_chain, out_deepest, out_start, out_hidden,
    requests, all_requests, num_rows, all_rows, padding, stride_flags, stride_spans,
    X: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK: tl.constexpr, NULL_SLOT: tl.constexpr,
):  # fmt: skip
    """One request per program, and BLOCK rows."""
    k = tl.program_id(0).to(tl.int64)
    row = k * BLOCK + tl.arange(0, BLOCK)
    tl.store(slots + row, tl.full([BLOCK], NULL_SLOT, tl.int64), mask=(row >= num_rows) & (row < all_rows))
    if k < all_requests:
        slot = tl.load(slot_of + k, mask=k < requests, other=padding).to(tl.int64)
        sees = tl.load(visible + k, mask=k < requests, other=0)
        tl.store(query_rows + k, tl.load(query_rows + k, mask=k < requests, other=0))
        tl.store(visible + k, sees)
        tl.store(ends + k, tl.load(ends + k, mask=k < requests, other=0))
        tl.store(out_slot_of + k, slot)
        tl.store(out_chain + k, tl.load(chain + slot * stride_flags) != 0)
        tl.store(out_deepest + k, tl.where(sees > 0, tl.load(deepest + slot * stride_flags), 0))
        x = tl.arange(0, BLOCK_X)
        tl.store(out_start + k * X + x, tl.load(start + slot * stride_spans + x, mask=x < X, other=0), mask=x < X)
        tl.store(out_hidden + k * X + x, tl.load(hidden + slot * stride_spans + x, mask=x < X, other=0), mask=x < X)


def slot_queries_triton(slot_of: Tensor, flags: SlotFlags, committed: CommittedRows, num_rows: int, out: SlotQueries) -> None:
    """Launcher of the kernel: one launch."""
    all_requests, most_rows, width = len(out.slot_of), len(committed.slots), flags.spans.start.shape[1]
    launch(
        slot_queries_kernel, (max(all_requests, triton.cdiv(most_rows, ROWS)),),
        slot_of, flags.chain, flags.deepest, *flags.spans, committed.slots, committed.query_rows, committed.visible, committed.ends,
        out.slot_of, out.chain, out.deepest, *out.spans, len(slot_of), all_requests, num_rows, most_rows, len(flags.deepest) - 1,
        flags.chain.stride(0), flags.spans.start.stride(0), X=width, BLOCK_X=triton.next_power_of_2(width), BLOCK=ROWS,
        NULL_SLOT=NULL_SLOT, num_warps=4,
    )  # fmt: skip


def slot_queries(slot_of: Tensor, flags: SlotFlags, committed: CommittedRows, num_rows: int, out: SlotQueries) -> None:
    """Write `out` for all requests that it has room for, and put rows and requests of `committed` beyond the batch to rest.

    slot_of [R] int32 or int64, the requests of the step at hand; flags: chain and deepest of one stride; committed: as
    commit_rows left it, num_rows of its rows being the step's.
    """
    queries = slot_queries_triton if launches(slot_of) else slot_queries_torch
    queries(slot_of, flags, committed, num_rows, out)
