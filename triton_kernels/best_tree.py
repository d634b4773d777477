"""The best tree of n nodes per request, out of the chances of C candidates at each of L drafted positions.

A node's chance is the product along its path of what calibration makes of its tokens' chances given the token before
(METHOD), each at most CERTAIN < 1, so a child's chance is below its parent's:

    chance(node) = chance(parent) * min(p * ratio[int(p * BINS)], CERTAIN)        chance(root) = 1

The n nodes of highest chance are then a tree, and a best-first search finds them: n times, take the best of the cells
whose parent is taken. NaN is no chance; nor is a product below TINY, where float32 can no longer tell child from parent.
Of equal chances that of the earlier parent is taken first, then that of the lower candidate.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._best_first import best_tree_kernel
from ._softmax import row_stride
from ._triton import launch, launches, triton
from .loops import compiled

# The root and n nodes fit one ancestor bitmask.
MAX_NODES = 63
BINS = 16
CERTAIN = 1 - 1e-7
TINY = 1e-30


class BestTree(NamedTuple):
    """Trees of R requests: n nodes each, best first, every parent before its children.

    Where there is no node, chance and conditional are 0; parent -1, depth 1 and candidate 0 are valid as an index.
    """

    parents: Tensor
    """[R, n] int32: index of the parent among the n, -1 for the root."""
    depth: Tensor
    """[R, n] int32 from 1."""
    candidate: Tensor
    """[R, n] int32: which candidate of its depth's position a node is."""
    chance: Tensor
    """[R, n] float32 that a node is accepted with all before it, descending."""
    conditional: Tensor
    """[R, n] float32, the same given that its parent is, as the draft says it: uncalibrated."""
    parents_with_root: Tensor
    """[R, n + 1] int32: parents where the root is node 0; -1 for the root itself."""
    depth_with_root: Tensor
    """[R, n + 1] int32: 0 for the root."""
    ancestors: Tensor
    """[R, n + 1] int64: bit j set if node j is an ancestor or the node itself, the root being node 0."""


def _empty(requests: int, num_nodes: int, device: torch.device) -> BestTree:
    """Room for a result."""

    def tensor(columns: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(requests, columns, dtype=dtype, device=device)

    return BestTree(
        *(tensor(num_nodes, dtype) for dtype in (torch.int32, torch.int32, torch.int32, torch.float32, torch.float32)),
        *(tensor(num_nodes + 1, dtype) for dtype in (torch.int32, torch.int32, torch.int64)),
    )


_CHANCES = "float32[:, :], float32[:, :, :, :], int32[:], boolean[:], float32[:]"
_TREES = "int32[:, ::1], int32[:, ::1], int32[:, ::1], float32[:, ::1], float32[:, ::1], int32[:, ::1], int32[:, ::1], int64[:, ::1]"


@compiled(f"void({_CHANCES}, {_TREES})")
def _search(
    first, following, deepest, chain, ratio,
    parents, depths, candidates, chances, conditionals, parents_with_root, depths_with_root, ancestors,
):  # fmt: skip
    """As the kernel searches, request by request: of the children of node k (k = 0: the root) the best one left stands in entry k."""
    requests, width, nodes, levels = first.shape[0], first.shape[1], ancestors.shape[1], following.shape[1] + 1
    said, left = np.empty((nodes, width), np.float32), np.empty((nodes, width), np.float32)
    top, top_column = np.empty(nodes, np.float32), np.empty(nodes, np.int64)
    for request in range(requests):
        parents_with_root[request, 0], depths_with_root[request, 0], ancestors[request, 0] = -1, 0, 1
        limit = min(levels, deepest[request])
        best, parent, column, depth = np.float32(1), 0, 0, 0
        for node in range(nodes):
            if node:
                parent = top[:node].argmax()
                best, column = top[parent], top_column[parent]
                if best > 0:
                    given, left[parent, column] = said[parent, column], 0
                    top_column[parent] = left[parent].argmax()
                    top[parent] = left[parent, top_column[parent]]
                else:
                    given, parent, column = np.float32(0), 0, 0
                depth = depths_with_root[request, parent] + 1
                parents[request, node - 1], depths[request, node - 1], candidates[request, node - 1] = parent - 1, depth, column
                chances[request, node - 1], conditionals[request, node - 1] = best, given
                parents_with_root[request, node], depths_with_root[request, node] = parent, depth
                ancestors[request, node] = ancestors[request, parent] | np.int64(1) << node
            top[node], top_column[node] = 0, 0
            if best == 0 or depth >= limit:
                continue
            likeliest = 0
            for c in range(width):
                p = following[request, depth - 1, column, c] if depth else first[request, c]
                # NaN is no chance.
                said[node, c] = min(p, np.float32(1)) if p > 0 else np.float32(0)
                if said[node, c] > said[node, likeliest]:
                    likeliest = c
            for c in range(width):
                p = said[node, c]
                chance = best * min(p * ratio[int(p * np.float32(BINS))], np.float32(CERTAIN))
                wanted = chance >= np.float32(TINY) and (c == likeliest or not chain[request])
                left[node, c] = chance if wanted else np.float32(0)
            top_column[node] = left[node].argmax()
            top[node] = left[node, top_column[node]]


def best_tree_torch(
    first: Tensor, following: Tensor, num_nodes: int, deepest: Tensor, chain: Tensor, ratio: Tensor
) -> BestTree:
    """The path for CPUs."""
    out = _empty(len(first), num_nodes, first.device)
    _search(*(part.numpy() for part in (first, following, deepest, chain, ratio, *out)))
    return out


def best_tree_triton(
    first: Tensor, following: Tensor, num_nodes: int, deepest: Tensor, chain: Tensor, ratio: Tensor
) -> BestTree:
    """Launcher of the kernel (_best_first.py): one launch. Compiled once per C and power of two that num_nodes + 1 fits in."""
    (requests, width), levels = first.shape, following.shape[1] + 1
    out = _empty(requests, num_nodes, first.device)
    launch(
        best_tree_kernel, (requests,), first, following, deepest, chain, ratio, *out, num_nodes, levels, width,
        row_stride(first), *following.stride()[:3], BLOCK_N=triton.next_power_of_2(num_nodes + 1),
        BLOCK_C=triton.next_power_of_2(width), BINS=BINS, CERTAIN=CERTAIN, TINY=TINY, num_warps=1,
    )  # fmt: skip
    return out


def best_tree(
    first: Tensor, following: Tensor, num_nodes: int, deepest: Tensor, chain: Tensor, ratio: Tensor
) -> BestTree:
    """Best-first trees of n = num_nodes nodes for R requests.

    first [R, C] float32: chances of the first position's candidates. following [R, L - 1, C, C] float32: those of the later
        positions' after each candidate before; both may have any strides but must be contiguous in the last dimension.
    deepest [R] int32: no node is deeper; 0 gives no nodes.
    chain [R] bool: no node has more than one child, the one that the draft says is likeliest.
    ratio [BINS + 1] float32: what calibration multiplies a chance p by, at int(p * BINS).
    Raises ValueError where num_nodes is not from 1 to 63.
    """
    if not 1 <= num_nodes <= MAX_NODES:
        raise ValueError(f"A drafted tree has from 1 to {MAX_NODES} nodes, the root not counted: {num_nodes} were asked for.")
    best = best_tree_triton if launches(first) else best_tree_torch
    return best(first, following, num_nodes, deepest, chain, ratio)
