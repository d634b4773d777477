"""What becomes of a drafted tree: its tokens for the next step's rows, its shape and chances into the request's slot.

With C candidates a position, node j's token is that of candidate c_j at position depth_j - 1; its confidence is the chance that it
is accepted given that the node before it in the list was, which is what vLLM's adaptive verification multiplies up:

    draft[r, j] = tokens[r, depth_j - 1, c_j]        confidence[r, j] = chance_j / chance_(j-1)      0 where that is none

A node without a chance fills the list and is nobody's child: accepted, it would take what the target says after the nodes that
lie before it in the list.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._triton import launch, launches, tl, triton
from .best_tree import BestTree
from .tree_rows import TreeTables


class KeptDrafts(NamedTuple):
    """Where drafts go; persistent, on the device. R requests of a batch, S slots of an engine, n nodes."""

    drafts: Tensor
    """[R, n] int64, target token ids."""
    confidence: Tensor
    """[R, n] float32."""
    trees: TreeTables
    """By slot."""
    chances: Tensor
    """[S, n + 1] float32, chance that the draft gave each node after its parent; the root's is left as it is."""


def keep_tree_torch(tree: BestTree, tokens: Tensor, slot_of: Tensor, out: KeptDrafts) -> None:
    """Torch path of `keep_tree`."""
    requests, _, width = tokens.shape
    cell = (tree.depth.long() - 1) * width + tree.candidate
    out.drafts[:requests] = tokens.flatten(1).gather(1, cell)
    before = torch.cat((torch.ones_like(tree.chance[:, :1]), tree.chance[:, :-1]), 1)
    out.confidence[:requests] = (tree.chance / before).nan_to_num(0.0)
    parents = tree.parents_with_root.clone()
    parents[:, 1:].masked_fill_(~(tree.chance > 0), -1)
    for table, rows in zip(out.trees, (parents, tree.depth_with_root, tree.ancestors)):
        table[slot_of] = rows
    out.chances[slot_of, 1:] = tree.conditional


@triton.jit
def keep_tree_kernel(
    depth, candidate, chance, conditional, parents, depths, ancestors, tokens, slot_of,
    drafts, confidence, out_parents, out_depths, out_ancestors, out_chances, num_nodes, cells, width,
    stride_drafts, stride_confidence, stride_trees, stride_chances, BLOCK: tl.constexpr,
):  # fmt: skip
    """One request per program, all of its nodes in one vector."""
    request = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_of + request)
    j = tl.arange(0, BLOCK)
    inside = j < num_nodes
    node = request * num_nodes + j
    cell = (tl.load(depth + node, mask=inside, other=1) - 1) * width + tl.load(candidate + node, mask=inside, other=0)
    token = tl.load(tokens + request * cells + cell, mask=inside, other=0)
    tl.store(drafts + request * stride_drafts + j, token, mask=inside)
    own = tl.load(chance + node, mask=inside, other=0.0)
    before = tl.load(chance + node - 1, mask=inside & (j > 0), other=1.0)
    tl.store(confidence + request * stride_confidence + j, own / tl.where(own > 0, before, 1.0), mask=inside)
    tl.store(out_chances + slot * stride_chances + j + 1, tl.load(conditional + node, mask=inside, other=0.0), mask=inside)
    rooted = j < num_nodes + 1
    exists = tl.load(chance + node - 1, mask=rooted & (j > 0), other=0.0) > 0
    node, target = request * (num_nodes + 1) + j, slot * stride_trees + j
    tl.store(out_parents + target, tl.load(parents + node, mask=rooted & exists, other=-1), mask=rooted)
    tl.store(out_depths + target, tl.load(depths + node, mask=rooted, other=0), mask=rooted)
    tl.store(out_ancestors + target, tl.load(ancestors + node, mask=rooted, other=0), mask=rooted)


def keep_tree_triton(tree: BestTree, tokens: Tensor, slot_of: Tensor, out: KeptDrafts) -> None:
    """Launcher of the kernel: one launch."""
    (requests, depth, width), num_nodes = tokens.shape, tree.depth.shape[1]
    launch(
        keep_tree_kernel, (requests,), tree.depth, tree.candidate, tree.chance, tree.conditional, tree.parents_with_root,
        tree.depth_with_root, tree.ancestors, tokens, slot_of, out.drafts, out.confidence, *out.trees, out.chances,
        num_nodes, depth * width, width, out.drafts.stride(0), out.confidence.stride(0), out.trees.parents.stride(0),
        out.chances.stride(0), BLOCK=triton.next_power_of_2(num_nodes + 1), num_warps=1,
    )  # fmt: skip


def keep_tree(tree: BestTree, tokens: Tensor, slot_of: Tensor, out: KeptDrafts) -> None:
    """Write `out` for R requests: the first R rows of drafts and confidence, and their slots in the tables.

    tree: of R requests; tokens [R, L, C] int64 contiguous, target token ids of the candidates; slot_of [R] int64.
    """
    keep = keep_tree_triton if launches(tokens) else keep_tree_torch
    keep(tree, tokens, slot_of, out)
