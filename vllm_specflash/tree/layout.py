"""The order in which a tree's nodes are handed to the scheduler: path by path.

A *path* starts at a node that is not the best child of its parent (or at the root) and follows best children down. The
nodes of one path lie side by side, the most probable path first, and every parent before its children, so that a list
which the scheduler cuts short is still a tree; and a path begins exactly where a node's parent is not the node before it.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Layout:
    """Q trees of up to n nodes in the order of their paths.

    Attributes:
        order: [Q, n] which node of the Trees lies i-th; what follows a tree's last node may be anything.
        parent: [Q, n] its parent's index in the tree, where 0 is the root and i + 1 the i-th node.
    """

    order: np.ndarray
    parent: np.ndarray


def lay_out(parent: np.ndarray, count: np.ndarray) -> Layout:
    """Order the first count[q] nodes of each tree.

    Args:
        parent: [Q, n] as in Trees: best first, -1 for the root.
        count: [Q].
    """
    requests, nodes = parent.shape
    row = np.arange(requests)[:, None]
    above = parent + 1
    earlier = np.tri(nodes, k=-1, dtype=bool)
    best_child = ~((above[:, :, None] == above[:, None, :]) & earlier).any(2)
    # Up along best children to the node a path starts at; doubling the stride each time.
    head = np.zeros((requests, nodes + 1), dtype=np.int64)
    head[:, 1:] = np.where(best_child, above, np.arange(1, nodes + 1))
    for _ in range(max(1, nodes.bit_length())):
        head = head[row, head]
    key = head[:, 1:] * nodes + np.arange(nodes)
    order = np.argsort(np.where(np.arange(nodes) < count[:, None], key, np.iinfo(np.int64).max), axis=1, kind="stable")
    place = np.zeros((requests, nodes + 1), dtype=np.int64)
    np.put_along_axis(place[:, 1:], order, np.arange(1, nodes + 1)[None, :], axis=1)
    return Layout(order, place[row, above[row, order]])
