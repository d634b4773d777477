"""What a target's forward must know of the trees it verifies: one small launch per step, everything read from tables on the device.

A request's last n rows are the nodes of its tree, root first; rows before the root (a prefill chunk's) are a chain that
leads to it. With c the request's committed tokens before the root, parent(j), depth(j) and ancestors(j) what was drafted:

    position(node j)  = c + depth(j)                        its slot stays that of c + j, one after the other
    visible(node j)   = rows before the root, and ancestors(j)

The drafts of a step that starts within the prompt are placeholders of the scheduler's: a chain whose nodes nobody's child is.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._triton import launch, launches, tl, triton


class TreeTables(NamedTuple):
    """What was drafted for each of S request slots, W = n + 1 nodes with the root first; persistent, on the device."""

    parents: Tensor
    """[S, W] int32, the parent's node, -1 at the root and where there is no node."""
    depth: Tensor
    """[S, W] int32, 0 at the root."""
    ancestors: Tensor
    """[S, W] int64, bit i set where node i is an ancestor or the node itself."""

    @classmethod
    def chains(cls, slots: int, width: int, device: torch.device | str) -> "TreeTables":
        """Tables in which every slot holds a chain of width - 1 drafted nodes."""
        node = torch.arange(width, device=device)
        return cls(
            (node - 1).int().repeat(slots, 1),
            node.int().repeat(slots, 1),
            ((torch.full_like(node, 2) << node) - 1).repeat(slots, 1),
        )


class TreeRows(NamedTuple):
    """One step's rows as verification needs them, for up to T rows of R requests; persistent, on the device."""

    ancestors: Tensor
    """[T] int64, of requests with at most W rows: bit i set where the request's i-th row is visible."""
    back: Tensor
    """[T] int64, by how much a row's position lies before the one its slot stands for."""
    parents: Tensor
    """[R * W] int32, of the nodes of all requests one after the other: the parent within its tree, -1 for none."""
    context_lens: Tensor
    """[R] int32, committed tokens before a request's first row."""
    roots: Tensor
    """[R] int32, target position of a request's root."""

    @classmethod
    def empty(cls, rows: int, requests: int, width: int, device: torch.device | str) -> "TreeRows":
        """Room for so many rows and requests of at most `width` nodes."""
        return cls(
            torch.zeros(rows, dtype=torch.int64, device=device),
            torch.zeros(rows, dtype=torch.int64, device=device),
            torch.zeros(requests * width, dtype=torch.int32, device=device),
            torch.zeros(requests, dtype=torch.int32, device=device),
            torch.zeros(requests, dtype=torch.int32, device=device),
        )


@triton.jit(do_not_specialize=["stride_table", "width"])
def tree_rows_kernel(
    slot_of, row_bounds, node_bounds, seq_lens, prompt_lens, positions, parents, depth, ancestors,
    out_ancestors, out_back, out_parents, out_context, out_roots, stride_table, width, BLOCK: tl.constexpr,
):  # fmt: skip
    """One request per program, all of its nodes in one vector."""
    request = tl.program_id(0)
    slot = tl.load(slot_of + request).to(tl.int64)
    first_row = tl.load(row_bounds + request)
    rows = tl.load(row_bounds + request + 1) - first_row
    first_node = tl.load(node_bounds + request)
    nodes = tl.load(node_bounds + request + 1) - first_node
    lead = rows - nodes
    root = tl.load(seq_lens + request) - nodes
    tl.store(out_roots + request, root)
    tl.store(out_context + request, root - lead)

    j = tl.arange(0, BLOCK)
    inside = j < nodes
    drafted = root >= tl.load(prompt_lens + slot)
    chain = ((tl.full([BLOCK], 2, tl.int64) << j.to(tl.int64)) - 1).to(tl.int64)
    table = slot * stride_table + j
    level = tl.where(drafted, tl.load(depth + table, mask=inside, other=0), j)
    parent = tl.where(drafted, tl.load(parents + table, mask=inside, other=-1), -1)
    seen = tl.where(drafted, tl.load(ancestors + table, mask=inside, other=1), chain)
    row = first_row + lead + j
    tl.store(positions + row, (root + level).to(tl.int64), mask=inside)
    tl.store(out_back + row, (j - level).to(tl.int64), mask=inside)
    tl.store(out_parents + first_node + j, parent, mask=inside)
    if rows <= width:
        before = (tl.full([BLOCK], 1, tl.int64) << lead.to(tl.int64)) - 1
        tl.store(out_ancestors + row, (seen << lead.to(tl.int64)) | before, mask=inside)
        tl.store(out_ancestors + first_row + j, chain, mask=j < lead)


def tree_rows_triton(
    slot_of: Tensor, row_bounds: Tensor, node_bounds: Tensor, seq_lens: Tensor, prompt_lens: Tensor,
    positions: Tensor, tables: TreeTables, out: TreeRows,
) -> None:  # fmt: skip
    """Launcher of the kernel. Compiled once per power of two that W fits in."""
    width = tables.parents.shape[1]
    out.back.zero_()
    launch(tree_rows_kernel, (slot_of.shape[0],),
        slot_of, row_bounds, node_bounds, seq_lens, prompt_lens, positions, *tables, *out,
        tables.parents.stride(0), width, BLOCK=triton.next_power_of_2(width), num_warps=1,
    )  # fmt: skip


def tree_rows_torch(
    slot_of: Tensor, row_bounds: Tensor, node_bounds: Tensor, seq_lens: Tensor, prompt_lens: Tensor,
    positions: Tensor, tables: TreeTables, out: TreeRows,
) -> None:  # fmt: skip
    """Torch path of `tree_rows`, request by request."""
    width = tables.parents.shape[1]
    out.back.zero_()
    bounds, node_ends = row_bounds.tolist(), node_bounds.tolist()
    for request, slot in enumerate(slot_of.tolist()):
        begin, end = bounds[request], bounds[request + 1]
        nodes = node_ends[request + 1] - node_ends[request]
        lead, root = end - begin - nodes, int(seq_lens[request]) - nodes
        out.roots[request], out.context_lens[request] = root, root - lead
        node = torch.arange(nodes)
        if root >= int(prompt_lens[slot]):
            parents, depth, seen = (table[slot, :nodes] for table in tables)
        else:
            parents, depth, seen = torch.full_like(node, -1), node, (torch.full_like(node, 2) << node) - 1
        rows = slice(begin + lead, end)
        positions[rows], out.back[rows] = root + depth.long(), node - depth.long()
        out.parents[node_ends[request] : node_ends[request + 1]] = parents.int()
        if end - begin <= width:
            out.ancestors[rows] = (seen << lead) | ((1 << lead) - 1)
            out.ancestors[begin : begin + lead] = (torch.full((lead,), 2) << torch.arange(lead)) - 1


def tree_rows(
    slot_of: Tensor, row_bounds: Tensor, node_bounds: Tensor, seq_lens: Tensor, prompt_lens: Tensor,
    positions: Tensor, tables: TreeTables, out: TreeRows,
) -> None:  # fmt: skip
    """Write `out`, and into `positions` those of the nodes, for R requests; the batch's T rows lie one request after the other.

    slot_of [R] int32 or int64, each request's slot in `tables`; row_bounds [R + 1] int32, request r owning rows row_bounds[r] to
    row_bounds[r + 1]; node_bounds [R + 1] int32 alike for nodes, at least one (the root), at most W, the last rows of each;
    seq_lens [R] int32, tokens of each request its rows included; prompt_lens [S] int32 by slot; positions [T or more] int64,
    those of rows before the roots are left as they are.
    """
    run = tree_rows_triton if launches(positions) else tree_rows_torch
    run(slot_of, row_bounds, node_bounds, seq_lens, prompt_lens, positions, tables, out)
