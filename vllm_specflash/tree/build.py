"""The best tree of n nodes, in the order and form that hosts work with; the search itself is an op (triton_kernels/best_tree.py).

A node's score is the product of its tokens' chances along its path, so no node scores higher than its
parent and the n best nodes are a tree.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from vllm_specflash.tree.calibration import UNCALIBRATED
from vllm_specflash.triton_kernels.best_tree import BestTree, best_tree
from vllm_specflash.triton_kernels.loops import compiled


@dataclass(frozen=True)
class Trees:
    """Up to n nodes each for Q requests, best first, every parent before its children; the root is not among them.

    Attributes:
        parent: [Q, n] index of the parent in the same row, -1 for the root.
        depth: [Q, n] from 1.
        candidate: [Q, n] which candidate of its depth's position a node is.
        chance: [Q, n] that a node is accepted with all before it, descending; 0 where there is no node.
        conditional: [Q, n] the same given that its parent is, as the tables say it: uncalibrated.
    """

    parent: np.ndarray
    depth: np.ndarray
    candidate: np.ndarray
    chance: np.ndarray
    conditional: np.ndarray

    @classmethod
    def of(cls, tree: BestTree) -> "Trees":
        """On the host."""
        parts = (tree.parents, tree.depth, tree.candidate, tree.chance, tree.conditional)
        return cls(*(part.cpu().numpy() for part in parts))

    @property
    def starts_path(self) -> np.ndarray:
        """[Q, n] bool: not the best child of its parent, so that a side path begins there (layout.py)."""
        return self._paths[0]

    @property
    def on_side_path(self) -> np.ndarray:
        """[Q, n] bool: on a path that is not the most probable one, or on one that leaves such a path."""
        return self._paths[1]

    @cached_property
    def _paths(self) -> tuple[np.ndarray, np.ndarray]:
        starts, on_side = np.zeros(self.parent.shape, bool), np.zeros(self.parent.shape, bool)
        _mark_paths(np.asarray(self.parent, np.int32), starts, on_side)
        return starts, on_side


@compiled("void(int32[:, :], boolean[:, ::1], boolean[:, ::1])")
def _mark_paths(parent, starts, on_side):
    requests, nodes = parent.shape
    for request in range(requests):
        for node in range(nodes):
            above = parent[request, node]
            for earlier in range(node):
                starts[request, node] |= parent[request, earlier] == above
            on_side[request, node] = starts[request, node] or (above >= 0 and on_side[request, above])


def best_trees(
    first: np.ndarray,
    following: np.ndarray,
    num_nodes: int,
    deepest: np.ndarray | None = None,
    chain: np.ndarray | None = None,
    ratio: np.ndarray = UNCALIBRATED,
) -> Trees:
    """Best-first trees.

    Args:
        first: [Q, C] chances of the first position's candidates; zeros and NaN are never taken.
        following: [Q, L - 1, C, C] chances of the later positions' after each candidate before.
        num_nodes: n.
        deepest: [Q] depth that no node exceeds; L where not given.
        chain: [Q] bool, requests whose nodes may have one child at most.
        ratio: Calibration.ratio, what chances are multiplied by.
    """
    requests, levels = len(first), following.shape[1] + 1
    deepest = np.full(requests, levels) if deepest is None else deepest
    chain = np.zeros(requests, dtype=bool) if chain is None else chain
    tree = best_tree(
        torch.from_numpy(np.ascontiguousarray(first, dtype=np.float32)),
        torch.from_numpy(np.ascontiguousarray(following, dtype=np.float32)),
        num_nodes,
        torch.from_numpy(np.asarray(deepest, dtype=np.int32)),
        torch.from_numpy(np.asarray(chain, dtype=bool)),
        torch.from_numpy(np.asarray(ratio, dtype=np.float32)),
    )
    return Trees.of(tree)
