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


def _descending(chance: np.ndarray) -> np.ndarray:
    """Chances float32, not negative -> int64 keys, the highest chance first, with 32 bits of room below."""
    return -(chance.view(np.int32).astype(np.int64) << 32)


def _best_of(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` highest of scores [R, N] float32, of equal ones the first: values and columns [R, count], in order."""
    keys = _descending(scores) + np.arange(scores.shape[1])
    keys = np.sort(np.partition(keys, count - 1, axis=1)[:, :count], axis=1)
    return (-(keys >> 32)).astype(np.int32).view(np.float32), keys & 0xFFFFFFFF


def _beams(
    first: np.ndarray, following: np.ndarray, num_nodes: int, deepest: np.ndarray, chain: np.ndarray, ratio: np.ndarray
) -> list[tuple[np.ndarray, ...]]:
    """Per depth the n best of its nodes: chance, parent's chance, conditional, parent (-1 or its column when the beams stand
    side by side), depth and candidate, [R, up to n] each.
    """
    (requests, width), request = first.shape, np.arange(len(first))[:, None]
    cells, above = first[:, None], np.ones((requests, 1), np.float32)
    begin, begin_above, beams = 0, -1, []
    for level in range(following.shape[1] + 1):
        said = np.fmin(np.fmax(cells, np.float32(0)), np.float32(1))
        step = np.minimum(said * ratio.take((said * BINS).astype(np.intp)), np.float32(CERTAIN))
        scores = above[:, :, None] * step
        usable = (scores >= np.float32(TINY)) & (deepest > level)[:, None, None]
        if chain.any():
            usable &= (np.arange(width) == said.argmax(2)[:, :, None]) | ~chain[:, None, None]
        scores = np.where(usable, scores, np.float32(0)).reshape(requests, -1)
        chance, column = _best_of(scores, min(num_nodes, scores.shape[1]))
        parent, candidate = column // width, column % width
        conditional = said.reshape(requests, -1)[request, column]
        depth = np.full(column.shape, level + 1)
        beams.append((chance, above[request, parent], conditional, parent + begin_above, depth, candidate))
        begin, begin_above = begin + column.shape[1], begin
        # A child is less likely than its parent: below one that is at best the last of the n, nothing is worth looking at. In the order
        # of their chance, so that what no request looks below stands behind.
        least = _least_of_best([beam[0] for beam in beams], num_nodes)
        some = int((chance > least).sum(1).max(initial=0))
        if not some or level == following.shape[1]:
            break
        above, cells = chance[:, :some], following[request, level, candidate[:, :some]]
    if begin < num_nodes:
        beams.append(tuple(np.zeros((requests, num_nodes - begin), part.dtype) for part in beams[0]))
    return beams


def _least_of_best(chances: list[np.ndarray], count: int) -> np.ndarray:
    """The `count`-th highest of chances [R, ...] together, [R, 1]; 0 of fewer."""
    if sum(part.shape[1] for part in chances) < count:
        return np.zeros((len(chances[0]), 1), np.float32)
    together = np.concatenate(chances, axis=1)
    return np.partition(together, -count, axis=1)[:, -count, None]


def best_tree_torch(
    first: Tensor, following: Tensor, num_nodes: int, deepest: Tensor, chain: Tensor, ratio: Tensor
) -> BestTree:
    """The path for CPUs: a beam of n nodes a depth, then one sort.

    No depth holds more than n of the n best nodes, and each has its parent among the n best of the depth before, so the
    beams miss none. Ties are broken as by the kernel, except between nodes of different depths whose parents' chances are
    equal too: there the shallower goes first.

    In numpy, on whose small arrays an operation costs a third of torch's.
    """
    beams = _beams(first.numpy(), following.numpy(), num_nodes, deepest.numpy(), chain.numpy(), ratio.numpy())
    chance, above, conditional, parent, depth, candidate = (np.concatenate(part, axis=1) for part in zip(*beams))
    request = np.arange(len(chance))[:, None]
    order = (_descending(chance) - above.view(np.int32)).argsort(axis=1, kind="stable")[:, :num_nodes]
    # Which node a column became, the root being 0; the last column is the root's own, found as parent -1.
    node = np.zeros((len(chance), chance.shape[1] + 1), np.int64)
    node[request, order] = np.arange(1, num_nodes + 1)
    chance = chance[request, order]
    exists = chance > 0
    parent = np.where(exists, node[request, parent[request, order]], 0)

    out = _empty(len(chance), num_nodes, first.device)
    tree = BestTree(*(part.numpy() for part in out))
    tree.parents[:] = parent - 1
    tree.depth[:] = np.where(exists, depth[request, order], 1)
    tree.candidate[:] = np.where(exists, candidate[request, order], 0)
    tree.chance[:] = chance
    tree.conditional[:] = np.where(exists, conditional[request, order], 0)
    tree.parents_with_root[:, 0], tree.parents_with_root[:, 1:] = -1, parent
    tree.depth_with_root[:, 0], tree.depth_with_root[:, 1:] = 0, tree.depth
    tree.ancestors[:] = np.left_shift(np.int64(1), np.arange(num_nodes + 1))
    higher = np.maximum(tree.parents_with_root, 0)
    # Every round doubles how far up a node has looked.
    for _ in range(len(beams).bit_length()):
        tree.ancestors[:] |= tree.ancestors[request, higher]
        higher = higher[request, higher]
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
