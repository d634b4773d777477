"""Acceptance: walk each request's tree along the target's own tokens.

The lossless rule of METHOD (SpecInfer's verification, arXiv 2305.09781, for drafts that are chosen and not sampled): with
x(i) the drafted token of node i, y(i) the token the target sampled after node i, and node 0 the root,

    i_0 = 0;    i_{k+1} = the first child c of i_k with x(c) = y(i_k), while there is one

The a nodes i_1 .. i_a are accepted and the tokens y(i_0) .. y(i_a) emitted, the last of them the bonus token.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._triton import launch, launches, tl, triton
from .loops import compiled


class Acceptance(NamedTuple):
    """What the walks of R trees found; W is the width asked for, max_num_nodes."""

    lengths: Tensor
    """[R] int32, accepted length a of each request: a + 1 tokens are emitted."""
    nodes: Tensor
    """[R, W - 1] int32, the accepted nodes' indices in their tree, ascending, then -1; the root is not among them."""
    tokens: Tensor
    """[R, W] int64, the a + 1 emitted tokens, then -1."""


def tree_accept_torch(
    tokens: Tensor, parents: Tensor, sampled: Tensor, cu_nodes: Tensor, max_num_nodes: int, counters: Tensor | None = None
) -> Acceptance:
    """The path for CPUs."""
    requests = len(cu_nodes) - 1
    if len(cu_nodes) and not len(tokens) == len(parents) == len(sampled) >= int(cu_nodes[-1]):
        raise IndexError(f"{int(cu_nodes[-1])} nodes, but {len(tokens)} tokens, {len(parents)} parents and {len(sampled)} sampled tokens.")
    out = Acceptance(
        torch.empty(requests, dtype=torch.int32),
        torch.full((requests, max_num_nodes - 1), -1, dtype=torch.int32),
        torch.full((requests, max_num_nodes), -1, dtype=torch.int64),
    )
    counted = torch.zeros(3, dtype=torch.int64) if counters is None else counters
    _walk(*(part.numpy() for part in (tokens, parents.long(), sampled, cu_nodes.int(), *out, counted)))
    return out


@compiled("void(int64[:], int64[:], int64[:], int32[:], int32[::1], int32[:, ::1], int64[:, ::1], int64[:])")
def _walk(tokens, parents, sampled, bounds, lengths, nodes, emitted, counters):
    for request in range(len(lengths)):
        first, count = bounds[request], bounds[request + 1] - bounds[request]
        length, at, moved, emitted[request, 0] = 0, 0, False, sampled[first]
        node = 1
        while node < count and length < nodes.shape[1]:
            # Of siblings with the same token the first; children stand behind their parents.
            if parents[first + node] == at and tokens[first + node] == sampled[first + at]:
                at, nodes[request, length] = node, node
                length += 1
                emitted[request, length], moved = sampled[first + at], moved or at != length
            node += 1
        lengths[request] = length
        if count > 1:
            counters[0] += 1
            counters[1] += length + 1
            counters[2] += moved


@triton.jit(do_not_specialize=["stride_nodes", "stride_tokens"])
def tree_accept_kernel(
    tokens, parents, sampled, cu_nodes, out_lengths, out_nodes, out_tokens, counters, stride_nodes, stride_tokens,
    COUNTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One request per program, all of its nodes in one vector."""
    request = tl.program_id(0).to(tl.int64)
    first = tl.load(cu_nodes + request)
    nodes = tl.load(cu_nodes + request + 1) - first
    i = tl.arange(0, BLOCK)
    inside = i < nodes
    parent = tl.load(parents + first + i, mask=inside, other=-1)
    child = inside & (parent >= 0)
    wanted = tl.load(sampled + first + parent, mask=child, other=-1)
    follows = child & (tl.load(tokens + first + i, mask=inside, other=-1) == wanted)

    length = 0
    node = 0
    moved = 0
    successor = tl.min(tl.where(follows & (parent == 0), i, BLOCK))
    while successor < BLOCK:
        tl.store(out_tokens + request * stride_tokens + length, tl.load(sampled + first + node))
        tl.store(out_nodes + request * stride_nodes + length, successor)
        node = successor
        length += 1
        moved = tl.where(node != length, 1, moved)
        successor = tl.min(tl.where(follows & (parent == node), i, BLOCK))
    tl.store(out_tokens + request * stride_tokens + length, tl.load(sampled + first + node))
    tl.store(out_lengths + request, length)
    if COUNTS:
        drafted = nodes > 1
        tl.atomic_add(counters, drafted.to(tl.int64))
        tl.atomic_add(counters + 1, tl.where(drafted, length + 1, 0).to(tl.int64))
        tl.atomic_add(counters + 2, tl.where(drafted, moved, 0).to(tl.int64))


def tree_accept_triton(
    tokens: Tensor, parents: Tensor, sampled: Tensor, cu_nodes: Tensor, max_num_nodes: int, counters: Tensor | None = None
) -> Acceptance:
    """Launcher of the kernel. Compiled once per power of two that max_num_nodes fits in, and once more to count."""
    requests = cu_nodes.shape[0] - 1
    out = Acceptance(
        torch.empty(requests, dtype=torch.int32, device=tokens.device),
        torch.full((requests, max_num_nodes - 1), -1, dtype=torch.int32, device=tokens.device),
        torch.full((requests, max_num_nodes), -1, dtype=torch.int64, device=tokens.device),
    )
    if requests:
        launch(tree_accept_kernel, (requests,),
            tokens, parents, sampled, cu_nodes, *out, counters, out.nodes.stride(0), out.tokens.stride(0),
            COUNTS=counters is not None, BLOCK=triton.next_power_of_2(max_num_nodes), num_warps=1,
        )  # fmt: skip
    return out


def tree_accept(
    tokens: Tensor, parents: Tensor, sampled: Tensor, cu_nodes: Tensor, max_num_nodes: int, counters: Tensor | None = None
) -> Acceptance:
    """Walk the trees of R requests, laid out one after the other, N nodes in all.

    tokens [N] int64, the token of every node (the root's is not read); parents [N] int32 or int64, index within the request's
    tree, -1 at the root, every parent before its children; sampled [N] int64, the target's token after every node;
    cu_nodes [R + 1] int32, request r owning nodes cu_nodes[r] to cu_nodes[r + 1], at least the root; max_num_nodes: an upper
    bound of the nodes of one tree, known to the host. Of siblings that hold the same token the first counts.
    counters [3] int64, if given, grow by: trees of more than a root, tokens that these emitted, and how many of them had an
    accepted path that does not lie where a chain would.
    """
    accept = tree_accept_triton if launches(tokens) else tree_accept_torch
    return accept(tokens, parents, sampled, cu_nodes, max_num_nodes, counters)
