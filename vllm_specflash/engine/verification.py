"""What the runner and the proposer ask of tree verification, whichever way a platform's attention runs trees."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vllm_specflash.tree.step import StepTrees
from vllm_specflash.triton_kernels.tree_accept import Acceptance


class Allowance(Protocol):
    """What one step can verify, used up tree by tree."""

    def fitting(self, nodes: int, side_paths: Sequence[int], root: int, deepest: int) -> int:
        """How many of a branching tree's drafted nodes can be verified, cut where a side path begins or between nodes.

        Args:
            side_paths: drafted nodes, from 0, with which its side paths begin.
            root: target position of its root.
            deepest: depth of its deepest node.
        """


class TreeVerification(Protocol):
    """
    Attributes:
        trees: what the step at hand verifies; None before the first.
    """

    trees: StepTrees | None

    def fits(self, trees: StepTrees, rows: np.ndarray, base: np.ndarray) -> bool:
        """Whether a step's trees can all be verified; arguments as in begin."""

    def begin(self, trees: StepTrees | None, rows: np.ndarray | None = None, base: np.ndarray | None = None) -> None:
        """A step begins: rows [R] scheduled of each request, base [R] target position of its root; None: it verifies nothing."""

    def commit(self, acceptance: Acceptance) -> None:
        """Keys and values of the accepted paths go to where a chain's would be, in every layer of the target."""

    def side_path_seconds(self) -> float:
        """What a side path adds to a step beside its tokens, measured; 0 where that is nothing."""

    def allowance(self) -> Allowance:
        """Of the step that is being drafted."""
