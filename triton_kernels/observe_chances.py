"""What a verified step tells about the draft's chances, by bin: into running counts, and from them what chances are multiplied by.

With p_j the draft's own chance of node j given its parent, bin(p) = min(int(p * BINS), BINS - 1), and over all nodes of a step that
are *decided* (drafted and verified, their parent the root or accepted, 0 <= p_j <= 1; NaN where the draft said nothing):

    expected[b] = decay expected[b] + sum of p_j with bin(p_j) = b
    accepted[b] = decay accepted[b] + how many of these j were accepted
    ratio[b]    = (accepted[b] + prior) / (expected[b] + prior)        ratio[BINS] = ratio[BINS - 1]

Sums are taken in an order that depends on shapes alone, without atomics: ranks that share a target see the same drafts, and have
to come to the same ratios to the last bit.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._triton import launch, launches, tl, triton
from .best_tree import BINS

# Requests whose counts the merging program adds up at once.
REQUESTS = 64


class ChanceCounts(NamedTuple):
    """What was learnt so far; persistent, on the device."""

    totals: Tensor
    """[2, BINS] float32, expected and accepted, older steps weighing less."""
    ratio: Tensor
    """[BINS + 1] float32, what a chance p is to be multiplied by, at int(p * BINS)."""

    @classmethod
    def empty(cls, device: torch.device | str) -> "ChanceCounts":
        """Nothing learnt: chances are the draft's own."""
        return cls(torch.zeros(2, BINS, device=device), torch.ones(BINS + 1, device=device))


def observe_chances_torch(
    chances: Tensor, parents: Tensor, slot_of: Tensor, node_bounds: Tensor, nodes: Tensor, lengths: Tensor,
    counts: ChanceCounts, decay: float, prior: float,
) -> None:  # fmt: skip
    """Torch path of `observe_chances`."""
    chance, parents, verified = chances[slot_of], parents[slot_of].long(), node_bounds.diff()
    requests, width = chance.shape
    node = torch.arange(width, device=chance.device)
    # One column more takes what is written for places behind a walk's end.
    accepted = torch.zeros(requests, width + 1, device=chance.device)
    accepted.scatter_(1, torch.where(node[:-1] < lengths[:, None], nodes, width).long(), 1.0)
    accepted[:, 0] = 1.0
    reached = accepted.gather(1, parents.clamp_min(0)) > 0
    decided = reached & (parents >= 0) & (node < verified[:, None]) & (chance >= 0) & (chance <= 1)
    chance = torch.where(decided, chance, 0.0)
    bins = (chance * BINS).long().clamp_max(BINS - 1)
    in_bin = (bins.flatten()[:, None] == torch.arange(BINS, device=chance.device)).float()
    step = torch.stack((chance.flatten(), (decided * accepted[:, :width]).flatten())) @ in_bin
    counts.totals.mul_(decay).add_(step)
    expected, taken = counts.totals
    counts.ratio[:BINS] = (taken + prior) / (expected + prior)
    counts.ratio[BINS] = counts.ratio[BINS - 1]


@triton.jit
def count_chances_kernel(
    chances, parents, slot_of, node_bounds, nodes, lengths, out, stride_chances, stride_parents, stride_nodes,
    BINS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One request per program, all of its nodes in one vector; what was accepted is one mask of bits, the root's first."""
    request = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_of + request).to(tl.int64)
    verified = tl.load(node_bounds + request + 1) - tl.load(node_bounds + request)
    j = tl.arange(0, BLOCK)
    walked = j < tl.load(lengths + request)
    node = tl.load(nodes + request * stride_nodes + j, mask=walked, other=0).to(tl.int64)
    accepted = tl.sum(tl.where(walked, tl.full([BLOCK], 1, tl.int64) << node, 0)) | 1

    inside = j < verified
    parent = tl.load(parents + slot * stride_parents + j, mask=inside, other=-1)
    chance = tl.load(chances + slot * stride_chances + j, mask=inside, other=-1.0)
    reached = (accepted >> tl.maximum(parent, 0).to(tl.int64)) & 1
    decided = (reached == 1) & (parent >= 0) & (chance >= 0.0) & (chance <= 1.0)
    chance = tl.where(decided, chance, 0.0)
    taken = tl.where(decided, (accepted >> j.to(tl.int64)) & 1, 0).to(tl.float32)
    b = tl.arange(0, BINS)
    in_bin = tl.minimum((chance * BINS).to(tl.int32), BINS - 1)[None, :] == b[:, None]
    target = out + request * 2 * BINS + b
    tl.store(target, tl.sum(tl.where(in_bin, chance[None, :], 0.0), 1))
    tl.store(target + BINS, tl.sum(tl.where(in_bin, taken[None, :], 0.0), 1))


@triton.jit(do_not_specialize=["requests"])
def merge_chances_kernel(counted, totals, ratio, requests, decay, prior, BINS: tl.constexpr, BLOCK: tl.constexpr):
    """One program, all bins in one vector, BLOCK requests at once."""
    b = tl.arange(0, BINS)
    expected = tl.zeros([BINS], tl.float32)
    accepted = tl.zeros([BINS], tl.float32)
    for first in range(0, requests, BLOCK):
        request = first + tl.arange(0, BLOCK)[:, None]
        row = counted + request * 2 * BINS + b[None, :]
        expected += tl.sum(tl.load(row, mask=request < requests, other=0.0), 0)
        accepted += tl.sum(tl.load(row + BINS, mask=request < requests, other=0.0), 0)
    expected += decay * tl.load(totals + b)
    accepted += decay * tl.load(totals + BINS + b)
    tl.store(totals + b, expected)
    tl.store(totals + BINS + b, accepted)
    learnt = (accepted + prior) / (expected + prior)
    tl.store(ratio + b, learnt)
    tl.store(ratio + 1 + b, learnt, mask=b == BINS - 1)


def observe_chances_triton(
    chances: Tensor, parents: Tensor, slot_of: Tensor, node_bounds: Tensor, nodes: Tensor, lengths: Tensor,
    counts: ChanceCounts, decay: float, prior: float,
) -> None:  # fmt: skip
    """Launcher of the kernels: two launches. Compiled once per power of two that W fits in."""
    requests, width = slot_of.shape[0], chances.shape[1]
    counted = counts.totals.new_empty(requests, 2, BINS)
    launch(
        count_chances_kernel, (requests,), chances, parents, slot_of, node_bounds, nodes, lengths, counted,
        chances.stride(0), parents.stride(0), nodes.stride(0), BINS=BINS, BLOCK=triton.next_power_of_2(width), num_warps=1,
    )  # fmt: skip
    launch(merge_chances_kernel, (1,), counted, *counts, requests, decay, prior, BINS=BINS, BLOCK=REQUESTS, num_warps=4)


def observe_chances(
    chances: Tensor, parents: Tensor, slot_of: Tensor, node_bounds: Tensor, nodes: Tensor, lengths: Tensor,
    counts: ChanceCounts, decay: float, prior: float,
) -> None:  # fmt: skip
    """Learn from one step of R requests, whose trees lie in the rows of their slots, W nodes with the root first, W at most 64.

    chances [S, W] float32, the draft's own chance of each node given its parent, NaN where it said none; parents [S, W] int32, -1
    where there is none; slot_of [R] int32 or int64; node_bounds [R + 1] int32, request r having verified node_bounds[r + 1] -
    node_bounds[r] of its nodes; nodes [R, W - 1] and lengths [R] int32 as tree_accept gives them; counts are updated in place.
    """
    observe = observe_chances_triton if launches(chances) else observe_chances_torch
    observe(chances, parents, slot_of, node_bounds, nodes, lengths, counts, decay, prior)
