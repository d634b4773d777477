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

from ._softmax import row_stride
from ._triton import launch, launches, tl, triton

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
    cells, chance = first[:, None], np.ones((requests, 1), np.float32)
    begin, begin_above, beams = 0, -1, []
    for level in range(following.shape[1] + 1):
        said = np.fmin(np.fmax(cells, np.float32(0)), np.float32(1))
        step = np.minimum(said * ratio.take((said * BINS).astype(np.intp)), np.float32(CERTAIN))
        scores = chance[:, :, None] * step
        usable = (scores >= np.float32(TINY)) & (deepest > level)[:, None, None]
        if chain.any():
            usable &= (np.arange(width) == said.argmax(2)[:, :, None]) | ~chain[:, None, None]
        scores = np.where(usable, scores, np.float32(0)).reshape(requests, -1)
        above, (chance, column) = chance, _best_of(scores, min(num_nodes, scores.shape[1]))
        parent, candidate = column // width, column % width
        conditional = said.reshape(requests, -1)[request, column]
        depth = np.full(column.shape, level + 1)
        beams.append((chance, above[request, parent], conditional, parent + begin_above, depth, candidate))
        begin, begin_above = begin + column.shape[1], begin
        if level < following.shape[1]:
            cells = following[request, level, candidate]
    if begin < num_nodes:
        beams.append(tuple(np.zeros((requests, num_nodes - begin), part.dtype) for part in beams[0]))
    return beams


@torch.library.custom_op("specflash::best_tree_cpu", mutates_args=(), device_types="cpu")
def _best_tree_cpu(
    first: Tensor, following: Tensor, num_nodes: int, deepest: Tensor, chain: Tensor, ratio: Tensor
) -> list[Tensor]:
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

    tree = BestTree(*(part.numpy() for part in _empty(len(chance), num_nodes, first.device)))
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
    return [torch.from_numpy(part) for part in tree]


@_best_tree_cpu.register_fake
def _(first, following, num_nodes, deepest, chain, ratio):
    return list(_empty(first.shape[0], num_nodes, first.device))


def best_tree_torch(
    first: Tensor, following: Tensor, num_nodes: int, deepest: Tensor, chain: Tensor, ratio: Tensor
) -> BestTree:
    """The path for CPUs: a beam of n nodes a depth, then one sort.

    No depth holds more than n of the n best nodes, and each has its parent among the n best of the depth before, so the
    beams miss none. Ties are broken as by the kernel, except between nodes of different depths whose parents' chances are
    equal too: there the shallower goes first.

    In numpy, on whose small arrays an operation costs a third of torch's; an operator of its own, which torch.compile
    leaves whole.
    """
    return BestTree(*_best_tree_cpu(first, following, num_nodes, deepest, chain, ratio))


@triton.jit
def cleaned(said):
    """What the draft says as a chance: NaN is none, and none is above 1."""
    return tl.where(said > 0, tl.minimum(said, 1.0), 0.0)


@triton.jit
def best_cell(
    cells, width, given, after, after_column, is_chain, ratio,
    BLOCK_C: tl.constexpr, BINS: tl.constexpr, CERTAIN: tl.constexpr, TINY: tl.constexpr,
):  # fmt: skip
    """(chance, column) of the best of a row's first `width` cells that comes after (after, after_column); chance 0: none does.

    Cells come in the order of their chance, of equal ones the lower column first, so the last one taken says which are left.
    given: chance of the row's parent.
    """
    column = tl.arange(0, BLOCK_C)
    said = cleaned(tl.load(cells + column, mask=column < width, other=0.0))
    chance = given * tl.minimum(said * tl.load(ratio + (said * BINS).to(tl.int32)), CERTAIN)
    left = (chance >= TINY) & ((chance < after) | ((chance == after) & (column > after_column)))
    left = left & ((column == tl.argmax(said, 0)) | (is_chain == 0))
    return tl.max(tl.where(left, chance, 0.0), 0, return_indices=True)


@triton.jit(do_not_specialize=["num_nodes", "levels", "stride_first"])
def best_tree_kernel(
    first, following, deepest, chain, ratio, parents, depths, candidates, chances, conditionals,
    parents_with_root, depths_with_root, ancestors, num_nodes, levels, width,
    stride_first, stride_request, stride_level, stride_candidate,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BINS: tl.constexpr, CERTAIN: tl.constexpr, TINY: tl.constexpr,
):  # fmt: skip
    """One request per program. Of node k's children (k = 0: the root's) the best one left stands in entry k of the frontier."""
    request = tl.program_id(0).to(tl.int64)
    first += request * stride_first
    following += request * stride_request
    limit = tl.minimum(tl.load(deepest + request), levels)
    is_chain = tl.load(chain + request).to(tl.int32)
    k = tl.arange(0, BLOCK_N)
    given = tl.where(k == 0, 1.0, 0.0)
    depth = tl.zeros([BLOCK_N], tl.int32)
    candidate = tl.zeros([BLOCK_N], tl.int32)
    one = tl.full([BLOCK_N], 1, tl.int64)
    bits = tl.where(k == 0, one, 0)
    best, best_column = best_cell(
        first, tl.where(limit > 0, width, 0), 1.0, float("inf"), -1, is_chain, ratio, BLOCK_C, BINS, CERTAIN, TINY
    )
    top = tl.where(k == 0, best, 0.0)
    top_column = tl.where(k == 0, best_column, 0)

    out = request * num_nodes
    out_root = request * (num_nodes + 1)
    tl.store(parents_with_root + out_root, -1)
    tl.store(depths_with_root + out_root, 0)
    tl.store(ancestors + out_root, 1)
    for node in range(1, num_nodes + 1):
        chance, parent = tl.max(top, 0, return_indices=True)
        exists = chance > 0
        at_parent, at_node = k == parent, k == node
        column = tl.where(exists, tl.sum(tl.where(at_parent, top_column, 0), 0), 0)
        parent_chance = tl.sum(tl.where(at_parent, given, 0.0), 0)
        parent_depth = tl.sum(tl.where(at_parent, depth, 0), 0)
        own_depth = parent_depth + 1
        own_bits = tl.sum(tl.where(at_parent, bits, tl.where(at_node, one << k, 0)), 0)
        siblings = following + (parent_depth - 1) * stride_level + tl.sum(tl.where(at_parent, candidate, 0), 0) * stride_candidate
        siblings = tl.where(parent == 0, first, siblings)

        tl.store(parents + out + node - 1, parent - 1)
        tl.store(depths + out + node - 1, own_depth)
        tl.store(candidates + out + node - 1, column)
        tl.store(chances + out + node - 1, chance)
        tl.store(conditionals + out + node - 1, tl.where(exists, cleaned(tl.load(siblings + column)), 0.0))
        tl.store(parents_with_root + out_root + node, parent)
        tl.store(depths_with_root + out_root + node, own_depth)
        tl.store(ancestors + out_root + node, own_bits)

        next_chance, next_column = best_cell(
            siblings, tl.where(exists, width, 0), parent_chance, chance, column, is_chain, ratio,
            BLOCK_C, BINS, CERTAIN, TINY,
        )  # fmt: skip
        children = following + parent_depth * stride_level + column * stride_candidate
        child_chance, child_column = best_cell(
            children, tl.where(exists & (own_depth < limit), width, 0), chance, float("inf"), -1, is_chain, ratio,
            BLOCK_C, BINS, CERTAIN, TINY,
        )  # fmt: skip
        top = tl.where(at_node, child_chance, tl.where(at_parent, next_chance, top))
        top_column = tl.where(at_node, child_column, tl.where(at_parent, next_column, top_column))
        given = tl.where(at_node, chance, given)
        depth = tl.where(at_node, own_depth, depth)
        candidate = tl.where(at_node, column, candidate)
        bits = tl.where(at_node, own_bits, bits)


def best_tree_triton(
    first: Tensor, following: Tensor, num_nodes: int, deepest: Tensor, chain: Tensor, ratio: Tensor
) -> BestTree:
    """Launcher of the kernel: one launch. Compiled once per C and power of two that num_nodes + 1 fits in."""
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
