"""How much of its drafts an engine verifies, and when it makes none: by what steps were measured to take."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np

from vllm_specflash.tree.build import Trees
from vllm_specflash.tree.cost import Sizes, StepCost, best_sizes
from vllm_specflash.tree.overhead import Kind, StepClock
from vllm_specflash.tree.pause import Pause, Typical
from vllm_specflash.tree.step import StepTrees

# Copies alone are verified where they promise so many more tokens a second than a step without drafts.
COPIES_PAY = 1.05
# Drafts that gain more than this are not compared with copies alone.
CERTAINLY = 1.5
# Steps of a look at another kind of step: more than half of those that a `Typical` remembers, so that it moves.
LOOKS = 5


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
        # By load: kinds of drafts that the next steps verify to show what they take.
        self._looks: dict[int, list[Kind]] = defaultdict(list)
        # By load: steps of pauses that verify no copies, for the same reason.
        self._plain_looks: dict[int, int] = defaultdict(int)
        # Whether drafts were made in this step, be it that none of them is worth verifying.
        self._drafted = False

    def rests(self, requests: int) -> bool:
        """Whether drafting pauses in the step of so many requests that begins; asked once a step."""
        resting = self.pause.take_step()
        self.pause.ease(requests)
        return resting

    def keep(self, chances: np.ndarray, requests: int, trees: Trees, copied: Callable[[], np.ndarray] | None = None) -> np.ndarray:
        """Which nodes [Q, n] of Q trees to verify, in a batch of so many requests; a pause may follow.

        Args:
            chances: [Q, n] of every node to be accepted with all above it; 0 where it must not be proposed.
            copied: gives the same of copies alone, [Q, m], which a pause would draft; asked only where drafts hardly pay.
        """
        self._drafted = True
        kept, gain = self._best(chances, requests, trees)
        copies = self._copies(copied(), requests).gain if copied is not None and gain < CERTAINLY else 1.0
        self.pause.weigh(gain, requests, self._clock.unsure(requests), copies if copies > COPIES_PAY else 1.0)
        return kept

    def keep_copies(self, chances: np.ndarray, requests: int) -> np.ndarray:
        """How many tokens [Q] of Q copies to verify in a step that drafts nothing else; chances [Q, m] as above."""
        nothing, load = np.zeros(len(chances), np.int64), requests.bit_length()
        # What steps without drafts take has to be seen first, and again now and then.
        if not self._plain_looks[load] and self._clock.time_for(requests, Kind.PLAIN):
            self._plain_looks[load] = LOOKS
        if self._plain_looks[load]:
            self._plain_looks[load] -= 1
            return nothing
        # A look beside prompts teaches nothing.
        if self._clock.unsure(requests):
            return nothing
        sizes = self._copies(chances, requests)
        pays = sizes.gain > COPIES_PAY
        self.pause.copied(pays)
        return sizes.lengths if pays else nothing

    def _copies(self, chances: np.ndarray, requests: int) -> Sizes:
        return best_sizes(chances, requests, self.step_cost, overhead=self._clock.overhead(requests, Kind.CHAINS))

    def _best(self, chances: np.ndarray, requests: int, trees: Trees) -> tuple[np.ndarray, float]:
        """Nodes of trees, or of their most probable paths alone, whichever is expected to give more tokens a second; and what drafting gains."""
        main = ~trees.on_side_path
        chains = self._sized(np.where(main, chances, 0.0), requests, Kind.CHAINS)
        on_chain = main & (np.cumsum(main, 1) <= chains.lengths[:, None])
        if not trees.starts_path.any():
            return on_chain, chains.gain
        whole = self._sized(chances, requests, Kind.TREES, trees.starts_path)
        in_tree = np.arange(chances.shape[1]) < whole.lengths[:, None]
        if self.step_cost is None or not on_chain.any():
            return in_tree, whole.gain
        if not (in_tree & trees.starts_path).any():
            return on_chain, chains.gain
        # The better gain counts for a pause, be it that the other kind is looked at.
        gain = max(chains.gain, whole.gain)
        return (on_chain if self._take_chains(chains.gain > whole.gain, requests) else in_tree), gain

    def _sized(self, chances: np.ndarray, requests: int, kind: Kind, starts_path: np.ndarray | None = None) -> Sizes:
        overhead = self._clock.overhead(requests, kind)
        return best_sizes(chances, requests, self.step_cost, self._drafting.value, starts_path, overhead)

    def _take_chains(self, better: bool, requests: int) -> bool:
        """Whether chains are verified where trees would branch: they are better, or it is time to see what one or the other takes."""
        looks = self._looks[requests.bit_length()]
        other = Kind.TREES if better else Kind.CHAINS
        if not looks and self._clock.time_for(requests, other):
            looks += [other] * LOOKS
        return looks.pop() is Kind.CHAINS if looks else better

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
        kind = Kind.PLAIN if trees is None else Kind.TREES if trees.branches else Kind.CHAINS
        self._clock.end_step(requests, kind, foreseen)
