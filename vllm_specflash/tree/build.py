"""The best tree of n nodes, by beam search over the chances of candidates.

A node's score is the product of its tokens' chances along its path, so no node scores higher than its
parent and the n best nodes are a tree. No depth holds more than n of them, and each has its parent among the n best of
the depth before: a beam of n nodes a depth misses none, and the search is exact.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from vllm_specflash.tree.calibration import UNCALIBRATED, calibrated

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

    @property
    def starts_path(self) -> np.ndarray:
        """[Q, n] bool: not the best child of its parent, so that a side path begins there (layout.py)."""
        return ((self.parent[:, :, None] == self.parent[:, None, :]) & _earlier(self.parent.shape[1])).any(2)


@cache
def _earlier(nodes: int) -> np.ndarray:
    return np.tri(nodes, k=-1, dtype=bool)


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
        first: [Q, C] float32 chances of the first position's candidates; zeros and NaN are never taken.
        following: [Q, L - 1, C, C] chances of the later positions' after each candidate before.
        num_nodes: n.
        deepest: [Q] depth that no node exceeds; L where not given.
        chain: [Q] bool, requests whose nodes may have one child at most.
        ratio: Calibration.ratio, what chances are multiplied by.
    """
    requests, width = first.shape
    levels = following.shape[1] + 1
    row = np.arange(requests)[:, None]
    # The beams side by side, n columns a level. The root is nobody's column: -1.
    chance, conditional = np.zeros((requests, levels * num_nodes)), np.zeros((requests, levels * num_nodes))
    parent, candidate = np.full(chance.shape, -1), np.zeros(chance.shape, dtype=np.int64)
    above, given = np.ones((requests, 1)), first[:, None, :]
    narrow = chain is not None and bool(chain.any())
    for level in range(levels):
        if narrow:
            best = np.arange(width) == given.argmax(-1)[..., None]
            given = np.where(best | ~chain[:, None, None], given, np.float32(0))
        # NaN is no chance. In double precision a child's chance stays below its parent's.
        said = np.fmax(given, np.float32(0))
        scores = (above[:, :, None] * calibrated(said, ratio, CERTAIN)).reshape(requests, -1)
        if deepest is not None:
            scores[deepest <= level] = 0.0
        kept = min(num_nodes, scores.shape[1])
        beam = scores.argpartition(-kept, axis=1)[:, -kept:]
        above, picked = scores[row, beam], beam % width
        at = slice(level * num_nodes, level * num_nodes + kept)
        chance[:, at], candidate[:, at] = above, picked
        conditional[:, at] = said.reshape(requests, -1)[row, beam]
        if level:
            parent[:, at] = beam // width + (level - 1) * num_nodes
        if level + 1 < levels:
            given = following[row, level, picked]
    order = np.argsort(-chance, axis=1, kind="stable")[:, :num_nodes]
    place = np.full(chance.shape, -1)
    place[row, order] = np.arange(num_nodes)
    above = parent[row, order]
    return Trees(
        np.where(above < 0, -1, place[row, above]), order // num_nodes + 1,
        candidate[row, order], chance[row, order], conditional[row, order],
    )  # fmt: skip
