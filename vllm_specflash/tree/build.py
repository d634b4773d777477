"""The best tree of n nodes, by best-first search over the chances of candidates.

A node's score is the product of its tokens' chances along its path (METHOD.md), so no node scores higher than its
parent and the n best nodes are a tree. Depth by depth: whatever is among the n best of all depths has its parent
among the n best of the depths before, so the search keeps n nodes at a time and is exact.
"""

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
        conditional: [Q, n] the same given that its parent is.
    """

    parent: np.ndarray
    depth: np.ndarray
    candidate: np.ndarray
    chance: np.ndarray
    conditional: np.ndarray


def best_trees(first: np.ndarray, following: np.ndarray, num_nodes: int) -> Trees:
    """Best-first trees.

    Args:
        first: [Q, C] chances of the first position's candidates; zeros and NaN are never taken.
        following: [Q, L - 1, C, C] chances of the later positions' after each candidate before.
        num_nodes: n.
    """
    requests, width = first.shape
    row = np.arange(requests)[:, None]
    # n kept nodes and the children of n parents at most: the columns of one depth's search.
    chance = np.zeros((requests, num_nodes))
    conditional, parent = np.zeros_like(chance), np.full(chance.shape, -1)
    depth, candidate = np.zeros(chance.shape, dtype=np.int64), np.zeros(chance.shape, dtype=np.int64)
    for level in range(1, following.shape[1] + 2):
        if level == 1:
            parents, above = np.full((requests, 1), -1), np.ones((requests, 1))
            given = first[:, None, :]
        else:
            at_level = (depth == level - 1) & (chance > 0)
            most = int(at_level.sum(1).max())
            if not most:
                break
            # The level's nodes, best first; where a request has fewer, nodes of no chance fill up.
            parents = np.argsort(~at_level, axis=1, kind="stable")[:, :most]
            above = np.where(at_level[row, parents], chance[row, parents], 0.0)
            given = following[row, level - 2, candidate[row, parents]]
        given = np.where(given > 0, np.minimum(given, CERTAIN), 0.0)
        children = (above[:, :, None] * given).reshape(requests, -1)
        merged = np.concatenate((chance, children), axis=1)
        order = np.argsort(-merged, axis=1, kind="stable")[:, :num_nodes]
        # Where the nodes kept so far have gone, for their children's sake.
        place = np.full(merged.shape, -1)
        np.put_along_axis(place, order, np.arange(order.shape[1])[None, :], axis=1)
        spread = np.repeat(parents, width, axis=1)

        def kept(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            return np.take_along_axis(np.concatenate((old, new), axis=1), order, axis=1)

        parent = kept(parent, spread)
        parent = np.where(parent >= 0, place[row, parent], -1)
        depth = kept(depth, np.full(children.shape, level))
        candidate = kept(candidate, np.tile(np.arange(width), (requests, parents.shape[1])))
        conditional = kept(conditional, given.reshape(requests, -1))
        chance = np.take_along_axis(merged, order, axis=1)
    return Trees(parent, depth, candidate, chance, conditional)


def chains_only(first: np.ndarray, following: np.ndarray, chain: np.ndarray) -> None:
    """Leave, in place, nothing but the best continuation everywhere in the tables of requests `chain` [Q] bool."""
    for table in (first, following):
        rows = table[chain]
        best = np.zeros_like(rows)
        index = rows.argmax(-1)[..., None]
        np.put_along_axis(best, index, np.take_along_axis(rows, index, -1), -1)
        table[chain] = best
