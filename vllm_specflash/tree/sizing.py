"""How much of its drafts an engine verifies, and when it makes none: by what steps were measured to take."""

import numpy as np

from vllm_specflash.tree.cost import StepCost, best_sizes
from vllm_specflash.tree.overhead import StepClock
from vllm_specflash.tree.pause import Pause, Typical
from vllm_specflash.tree.step import StepTrees


class Sizing:
    """
    Args:
        clock: that times whole steps.

    Attributes:
        step_cost: of the target; None keeps whatever has a chance, and never pauses.
        pause: steps without drafts.
    """

    def __init__(self, clock: StepClock | None = None):
        self.step_cost: StepCost | None = None
        self.pause = Pause()
        self._drafting, self._clock = Typical(), clock or StepClock()
        # Whether drafts were made in this step, be it that none of them is worth verifying.
        self._drafted = False

    def rests(self, requests: int) -> bool:
        """Whether drafting pauses in the step of so many requests that begins; asked once a step."""
        resting = self.pause.take_step()
        self.pause.ease(requests)
        return resting

    def keep(self, chances: np.ndarray, requests: int, starts_path: np.ndarray) -> np.ndarray:
        """How many nodes [Q] of each tree to verify, in a batch of so many requests; a pause may follow.

        Args:
            chances: [Q, n] of every node to be accepted with all above it; 0 where it must not be proposed.
            starts_path: [Q, n] whether a side path begins with the node.
        """
        self._drafted = True
        overhead = self._clock.overhead(requests)
        sizes = best_sizes(chances, requests, self.step_cost, self._drafting.value, starts_path, overhead)
        self.pause.weigh(sizes.gain, requests, self._clock.unsure(requests))
        return sizes.lengths

    def end_step(self, requests: int, tokens: int, trees: StepTrees | None, drafting: float, decoding: bool) -> None:
        """Learn from how long the step took that ends here.

        Args:
            tokens: that the target's forward had.
            trees: that it verified, if any.
            drafting: seconds of it that went into drafts.
            decoding: none of its tokens were a prompt's.
        """
        if self._drafted:
            self._drafting.add(drafting)
        self._drafted = False
        foreseen = None
        if self.step_cost is not None and decoding:
            side_paths = int(trees.starts_path.sum()) if trees is not None else 0
            foreseen = float(self.step_cost(tokens)) + side_paths * self.step_cost.side_path_seconds + drafting
        self._clock.end_step(requests, trees is not None, foreseen)
