"""The order in which a tree's nodes are handed to the scheduler: path by path.

A *path* starts at a node that is not the best child of its parent (or at the root) and follows best children down. The
nodes of one path lie side by side, the most probable path first, and every parent before its children, so that a list
which the scheduler cuts short is still a tree; and a path begins exactly where a node's parent is not the node before it.
"""

from collections.abc import Sequence


def lay_out(parents: Sequence[int]) -> tuple[list[int], list[int]]:
    """Order one tree's n nodes.

    Args:
        parents: [n] as in Trees: best first, -1 for the root.

    Returns:
        [n] which node lies i-th, and [n] its parent's index in the tree, where 0 is the root and i + 1 the i-th node.
    """
    best_child: dict[int, int] = {}
    heads = []
    for node, parent in enumerate(parents):
        if parent < 0 or parent in best_child:
            heads.append(node)
        best_child.setdefault(parent, node)
    order, laid_parents, index = [], [], {-1: 0}
    for node in heads:
        while node is not None:
            order.append(node)
            laid_parents.append(index[parents[node]])
            index[node] = len(order)
            node = best_child.get(node)
    return order, laid_parents
