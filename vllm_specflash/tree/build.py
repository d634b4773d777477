"""The best tree of n nodes, by best-first search over the chances of candidates.

A node's score is the product of its tokens' chances along its path (METHOD.md), so no node scores higher than its
parent and the n best nodes are a tree. Depth by depth: whatever is among the n best of all depths has its parent
among the n best of the depths before, so the search keeps n nodes at a time and is exact.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# A child never ties with its parent: equal scores would leave their order to the sort.
CERTAIN = 1 - 1e-7


@dataclass(frozen=True)
class Trees:
    """Up to n nodes each for Q requests, best first, every parent before its children; the root is not among them.

    Attributes:
        parent: [Q, n] index of the parent in the same row, -1 for the root.
        depth: [Q, n] from 1.
        candidate: [Q, n] which candidate of its depth's position a node is.
        chance: [Q, n] float64 that a node is accepted with all before it, descending; 0 where there is no node.
        conditional: [Q, n] the same given that its parent is, as the tables say it: uncalibrated.
    """

    parent: np.ndarray
    depth: np.ndarray
    candidate: np.ndarray
    chance: np.ndarray
    conditional: np.ndarray


def best_trees(
    first: np.ndarray,
    following: np.ndarray,
    num_nodes: int,
    calibrate: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Trees:
    """Best-first trees.

    Args:
        first: [Q, C] chances of the first position's candidates; zeros and NaN are never taken.
        following: [Q, L - 1, C, C] chances of the later positions' after each candidate before.
        num_nodes: n.
        calibrate: applied to chances as they are looked at.
    """
    requests, width = first.shape
    row = np.arange(requests)[:, None]
    columns = np.arange(num_nodes)
    # n kept nodes; with a zeroth column for the root, which is everyone's parent at first.
    chance, conditional = np.zeros((requests, num_nodes)), np.zeros((requests, num_nodes))
    parent = np.full((requests, num_nodes), -1)
    depth, candidate = np.zeros_like(parent), np.zeros_like(parent)
    parents, above, given = np.full((requests, 1), -1), np.ones((requests, 1)), first[:, None, :]
    for level in range(1, following.shape[1] + 2):
        # In double precision, where a child's chance stays below its parent's.
        believed = (given if calibrate is None else calibrate(given)).astype(np.float64)
        believed = np.where(believed > 0, np.minimum(believed, CERTAIN), 0.0)
        pool = np.concatenate((chance, (above[:, :, None] * believed).reshape(requests, -1)), axis=1)
        best = np.argpartition(pool, -num_nodes, axis=1)[:, -num_nodes:]
        # Among equals the node that was there first, as a stable sort over the whole pool would have it.
        best.sort(axis=1)
        order = best[row, np.argsort(-pool[row, best], axis=1, kind="stable")]
        new, old = order >= num_nodes, np.minimum(order, num_nodes - 1)
        child = np.maximum(order - num_nodes, 0)
        came_from = child // width
        # Where the nodes kept so far have gone, for their children's sake; the last column is the root's.
        place = np.full((requests, num_nodes + 1), -1)
        held = np.nonzero(~new)
        place[held[0], order[held]] = columns[held[1]]
        parent = place[row, np.where(new, parents[row, came_from], parent[row, old])]
        chance = pool[row, order]
        conditional = np.where(new, given.reshape(requests, -1)[row, child], conditional[row, old])
        candidate = np.where(new, child % width, candidate[row, old])
        depth = np.where(new, level, depth[row, old])
        if level > following.shape[1]:
            break
        at_level = (depth == level) & (chance > 0)
        most = int(at_level.sum(1).max())
        if not most:
            break
        # The level's nodes, best first; where a request has fewer, nodes of no chance fill up.
        parents = np.argsort(~at_level, axis=1, kind="stable")[:, :most]
        above = np.where(at_level[row, parents], chance[row, parents], 0.0)
        given = following[row, level - 1, candidate[row, parents]]
    return Trees(parent, depth, candidate, chance, conditional)


def chains_only(first: np.ndarray, following: np.ndarray, chain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tables with nothing left but the best continuation everywhere for the requests in `chain` [Q] bool."""

    def narrowed(table: np.ndarray) -> np.ndarray:
        best = np.arange(table.shape[-1]) == table.argmax(-1)[..., None]
        return np.where(best | ~chain.reshape(-1, *[1] * (table.ndim - 1)), table, np.float32(0))

    return narrowed(first), narrowed(following)
