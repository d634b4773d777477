"""From what the target said of a step to the draft's inputs: which rows were committed, in their order, and where each goes.

A request's rows are `lead` prompt rows, then the nodes of its tree, root first. Of the nodes, the root and the a accepted
ones are part of the sequence now. Row i of the output is the request's i-th committed position p = c + i (c tokens were
committed before the step):

    source(i) = row c + i of the prompt part; the root; the (i - lead)-th accepted node
    next(i)   = the token at p + 1                  the draft's input is [emb(x_{p+1}); h_p] (SpecFLASH, arXiv 2505.12728)
    slot(i)   = the slot of position p, or the null slot: rejected rows, and rows of visual spans (those are pooled)
    draft(p)  = p - (hidden positions before p)     the position in the compressed sequence
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._triton import launch, launches, tl, triton

# vLLM never hands out block 0: what is written to its first slot is read by nobody.
NULL_SLOT = 0
# Rows per program: one size for decodes and prompts, so that no prompt ever waits for a kernel to be compiled.
BLOCK = 64


class SlotSpans(NamedTuple):
    """Visual spans of each of S request slots, up to X of them in order; persistent, on the device."""

    count: Tensor
    """[S] int32."""
    start: Tensor
    """[S, X] int32, target position of the first position of each."""
    end: Tensor
    """[S, X] int32, exclusive."""
    hidden: Tensor
    """[S, X] int32, how many of its first positions the draft never sees."""


class CommittedRows(NamedTuple):
    """The draft's inputs of one step, T rows and R requests; persistent, on the device."""

    source: Tensor
    """[T] int64, row of the target's hidden states."""
    next_tokens: Tensor
    """[T] int64."""
    positions: Tensor
    """[T] int64, draft positions."""
    slots: Tensor
    """[T] int64, where the draft's keys and values go; NULL_SLOT for rows that are not kept."""
    query_rows: Tensor
    """[R] int64, the row that asks for each request's next draft."""
    visible: Tensor
    """[R] int32, draft positions that it sees, its own included; 0 where no draft can be asked for."""
    ends: Tensor
    """[R] int32, tokens of each request's text so far, the one emitted last included; 0 where no draft can be asked for."""

    @classmethod
    def empty(cls, rows: int, requests: int, device: torch.device | str) -> "CommittedRows":
        """Room for so many rows and requests."""
        per_row = [torch.zeros(rows, dtype=torch.int64, device=device) for _ in range(4)]
        return cls(
            *per_row,
            torch.zeros(requests, dtype=torch.int64, device=device),
            torch.zeros(requests, dtype=torch.int32, device=device),
            torch.zeros(requests, dtype=torch.int32, device=device),
        )


@triton.jit(do_not_specialize=["stride_nodes", "stride_tokens", "stride_spans", "max_tokens", "vocab_size"])
def commit_rows_kernel(
    slot_of, row_bounds, node_bounds, seq_lens, sampled, nodes, lengths, tokens, slot_mapping,
    span_count, span_start, span_end, span_hidden,
    out_source, out_next, out_positions, out_slots, out_query, out_visible, out_ends,
    stride_nodes, stride_tokens, stride_spans, max_tokens, vocab_size, HAS_NODES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK rows of one request."""
    request = tl.program_id(0)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slot_of + request).to(tl.int64)
    first = tl.load(row_bounds + request)
    rows = tl.load(row_bounds + request + 1) - first
    lead = rows - (tl.load(node_bounds + request + 1) - tl.load(node_bounds + request))
    begin = tl.load(seq_lens + request) - rows
    last = lead
    if HAS_NODES:
        last += tl.load(lengths + request)

    inside = i < rows
    kept = inside & (i <= last)
    source = i
    if HAS_NODES:
        step = i - lead
        walked = kept & (step > 0)
        node = tl.load(nodes + request * stride_nodes + step - 1, mask=walked, other=0)
        source = tl.where(walked, lead + node, i)
    position = begin + i
    known = kept & (position + 1 < max_tokens)
    following = tl.load(tokens + slot * stride_tokens + position + 1, mask=known, other=0).to(tl.int64)
    # Some models put tokens into a prompt that their embedding has no row for.
    following = tl.minimum(tl.maximum(following, 0), vocab_size - 1)

    asked = begin + last
    draft, asked_draft = position, asked
    visual, asked_visual = i < 0, asked < 0
    table = slot * stride_spans
    for k in range(tl.load(span_count + slot)):
        start, end = tl.load(span_start + table + k), tl.load(span_end + table + k)
        hidden = tl.load(span_hidden + table + k)
        visual = visual | ((position >= start) & (position < end))
        draft -= tl.where(position >= start + hidden, hidden, 0)
        asked_visual = asked_visual | ((asked >= start) & (asked < end))
        asked_draft -= tl.where(asked >= start + hidden, hidden, 0)
    stored = kept & (visual == 0)
    cache_slot = tl.load(slot_mapping + first + i, mask=stored, other=0).to(tl.int64)
    tl.store(out_source + first + i, (first + source).to(tl.int64), mask=inside)
    tl.store(out_next + first + i, following, mask=inside)
    tl.store(out_positions + first + i, draft.to(tl.int64), mask=inside)
    tl.store(out_slots + first + i, tl.maximum(cache_slot, 0), mask=inside)
    if tl.program_id(1) == 0:
        # A prompt in mid-prefill asks for nothing yet; one that ends in a picture has no text pair to ask with.
        wanted = (tl.load(sampled + request) > 0) & (asked_visual == 0)
        tl.store(out_query + request, (first + last).to(tl.int64))
        tl.store(out_visible + request, tl.where(wanted, asked_draft + 1, 0))
        tl.store(out_ends + request, tl.where(wanted, tl.minimum(asked + 2, max_tokens), 0))


def commit_rows_triton(
    slot_of: Tensor, row_bounds: Tensor, node_bounds: Tensor, seq_lens: Tensor, sampled: Tensor,
    nodes: Tensor | None, lengths: Tensor | None, tokens: Tensor, slot_mapping: Tensor, spans: SlotSpans,
    vocab_size: int, most_rows: int, out: CommittedRows,
) -> None:  # fmt: skip
    """Launcher of the kernel. Compiled once with verified drafts and once without."""
    launch(commit_rows_kernel, (slot_of.shape[0], triton.cdiv(most_rows, BLOCK)),
        slot_of, row_bounds, node_bounds, seq_lens, sampled, nodes, lengths, tokens, slot_mapping, *spans, *out,
        0 if nodes is None else nodes.stride(0), tokens.stride(0), spans.start.stride(0), tokens.shape[1], vocab_size,
        HAS_NODES=nodes is not None, BLOCK=BLOCK, num_warps=1,
    )  # fmt: skip


def commit_rows_torch(
    slot_of: Tensor, row_bounds: Tensor, node_bounds: Tensor, seq_lens: Tensor, sampled: Tensor,
    nodes: Tensor | None, lengths: Tensor | None, tokens: Tensor, slot_mapping: Tensor, spans: SlotSpans,
    vocab_size: int, most_rows: int, out: CommittedRows,
) -> None:  # fmt: skip
    """Torch path of `commit_rows`, request by request."""
    bounds, node_ends = row_bounds.tolist(), node_bounds.tolist()
    for request, slot in enumerate(slot_of.tolist()):
        first, rows = bounds[request], bounds[request + 1] - bounds[request]
        lead = rows - (node_ends[request + 1] - node_ends[request])
        accepted = 0 if lengths is None else int(lengths[request])
        source = torch.arange(rows)
        if accepted:
            source[lead + 1 : lead + accepted + 1] = lead + nodes[request, :accepted].long()
        position = int(seq_lens[request]) - rows + torch.arange(rows)
        kept = torch.arange(rows) <= lead + accepted
        known = kept & (position + 1 < tokens.shape[1])
        following = tokens[slot, (position + 1).clamp_max(tokens.shape[1] - 1)].long()
        count = int(spans.count[slot])
        start, end, hidden = (part[slot, :count].long() for part in spans[1:])
        visual = ((position[:, None] >= start) & (position[:, None] < end)).any(1)
        draft = position - (hidden * (position[:, None] >= start + hidden)).sum(1)
        at = slice(first, first + rows)
        out.source[at], out.positions[at] = first + source, draft
        out.next_tokens[at] = torch.where(known, following, 0).clamp(0, vocab_size - 1)
        out.slots[at] = torch.where(kept & ~visual, slot_mapping[at].long(), NULL_SLOT)
        last = lead + accepted
        out.query_rows[request] = first + last
        wanted = int(sampled[request]) > 0 and not bool(visual[last])
        out.visible[request] = int(draft[last]) + 1 if wanted else 0
        out.ends[request] = min(int(position[last]) + 2, tokens.shape[1]) if wanted else 0


def commit_rows(
    slot_of: Tensor, row_bounds: Tensor, node_bounds: Tensor, seq_lens: Tensor, sampled: Tensor,
    nodes: Tensor | None, lengths: Tensor | None, tokens: Tensor, slot_mapping: Tensor, spans: SlotSpans,
    vocab_size: int, most_rows: int, out: CommittedRows,
) -> None:  # fmt: skip
    """Write `out` for R requests, whose T rows lie one request after the other; what lies in `out` beyond them stays.

    slot_of, row_bounds, node_bounds, seq_lens: as in tree_rows; sampled [R] int32, tokens emitted, 0 in mid-prefill; nodes
    [R, W - 1] and lengths [R] as tree_accept gives them, None where no drafts were verified; tokens [S, max_tokens] int32, all
    tokens of each slot, the emitted ones included; slot_mapping [T] int64, by linear positions; spans: by slot; vocab_size: of
    the embedding; most_rows: an upper bound of one request's rows, known to the host.
    """
    run = commit_rows_triton if launches(tokens) else commit_rows_torch
    run(
        slot_of, row_bounds, node_bounds, seq_lens, sampled, nodes, lengths, tokens, slot_mapping, spans, vocab_size,
        most_rows, out,
    )  # fmt: skip
