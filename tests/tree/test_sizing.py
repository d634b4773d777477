"""Drafting goes on or rests by what steps take, whatever was measured of the target's forward before."""

import numpy as np
import pytest

from vllm_specflash.tree.build import Trees
from vllm_specflash.tree.cost import StepCost
from vllm_specflash.tree.overhead import LOOK_AGAIN, StepClock
from vllm_specflash.tree.pause import FRUITLESS, LOOK
from vllm_specflash.tree.sizing import LOOKS, Sizing
from vllm_specflash.tree.step import Draft, StepTrees

REQUESTS, STEPS = 8, 400


def _trees(parents: list[int]) -> Trees:
    """Of every request."""
    nothing = np.zeros((REQUESTS, len(parents)))
    return Trees(np.tile(parents, (REQUESTS, 1)), nothing, nothing, nothing, nothing)


# Half of all first tokens are taken, and a quarter of all second ones.
CHAINS, CHANCES = _trees([-1, 0]), np.tile([0.5, 0.25], (REQUESTS, 1))
# The same, and as good a second choice of the first as the second ones are.
BRANCHING, WITH_SIBLINGS = _trees([-1, -1, 0, 1]), np.tile([0.5, 0.3, 0.25, 0.15], (REQUESTS, 1))


class Engine:
    """A target whose steps take what it says and not what was measured."""

    def __init__(
        self, measured: StepCost | None, plain: float, verifying: float, drafting: float = 2e-3, trees: Trees = CHAINS,
        chances: np.ndarray = CHANCES, branching: float = 0.0,
    ):  # fmt: skip
        self.now, self.plain, self.verifying, self.drafting = 0.0, plain, verifying, drafting
        self.trees, self.chances, self.branching = trees, chances, branching
        self.sizing = Sizing(StepClock(lambda: self.now))
        self.sizing.step_cost = measured
        # Of copies alone; None where nothing is looked up.
        self.copies: np.ndarray | None = None
        self.resting = self.verified = self.branched = self.drafted = 0
        # What the next step verifies.
        self._drafts: list[Draft] = []

    def run(self, steps: int, decoding: bool = True) -> None:
        for _ in range(steps):
            verified = sum(len(draft.parents) - 1 for draft in self._drafts)
            trees = StepTrees.of(self._drafts) if verified else None
            self.now += self.verifying if trees else self.plain
            self.verified += trees is not None
            if trees is not None and trees.branches:
                self.now += self.branching
                self.branched += 1
            resting = self.sizing.rests(REQUESTS)
            self.resting += resting
            self._drafts = self._rest() if resting else self._keep()
            self.drafted += not resting
            drafting = 0.0 if resting else self.drafting
            self.now += drafting
            self.sizing.end_step(REQUESTS, REQUESTS + verified, trees, drafting, decoding)

    def _rest(self) -> list[Draft]:
        return [] if self.copies is None else [Draft.chain(length) for length in self.sizing.keep_copies(self.copies, REQUESTS)]

    def _keep(self) -> list[Draft]:
        copied = None if self.copies is None else lambda: self.copies
        return [self._draft(nodes) for nodes in self.sizing.keep(self.chances, REQUESTS, self.trees, copied)]

    def _draft(self, kept: np.ndarray) -> Draft:
        nodes = np.flatnonzero(kept)
        index = {-1: 0, **{node: i + 1 for i, node in enumerate(nodes.tolist())}}
        parents = [index[parent] for parent in self.trees.parent[0, nodes].tolist()]
        return Draft([-1, *parents], [np.nan] * (len(nodes) + 1))


FLAT, STEEP = (StepCost.of({8: 20e-3, 24: seconds}) for seconds in (20e-3, 60e-3))


@pytest.mark.parametrize("measured, verifying", [(FLAT, 45e-3), (STEEP, 60e-3)], ids=["too little foreseen", "as foreseen"])
def test_it_rests_where_drafting_costs_more_than_it_gives(measured, verifying):
    engine = Engine(measured, 20e-3, verifying)
    engine.run(STEPS)
    assert engine.resting > 0.8 * STEPS


@pytest.mark.parametrize("drafting", [2e-3, 10e-3], ids=["cheap drafts", "dear drafts"])
def test_it_drafts_where_that_pays(drafting):
    """But for the few steps that show what plain ones take. Dear drafts pay by a tenth, and would not if they counted twice."""
    engine = Engine(FLAT, 20e-3, 22e-3, drafting)
    engine.run(STEPS)
    assert engine.resting == LOOK and engine.verified >= STEPS - LOOK - 2


def _with_branches(branching: float) -> Engine:
    return Engine(FLAT, 20e-3, 22e-3, trees=BRANCHING, chances=WITH_SIBLINGS, branching=branching)


def test_trees_branch_where_that_pays():
    """But for the few steps that show what plain ones and chains take."""
    engine = _with_branches(branching=1e-3)
    engine.run(STEPS)
    assert engine.resting == LOOK and engine.branched >= STEPS - LOOK - LOOKS - 2


def test_drafts_are_chains_where_branches_cost_more_than_they_give():
    engine = _with_branches(branching=10e-3)
    engine.run(STEPS)
    assert engine.resting == LOOK and engine.verified >= STEPS - LOOK - 2
    assert 0 < engine.branched < 4 * LOOKS


def test_what_branches_cost_is_looked_at_again():
    engine = _with_branches(branching=10e-3)
    engine.run(4 * LOOK_AGAIN)
    engine.branching = engine.branched = 0
    engine.run(LOOK_AGAIN + STEPS)
    # One look is enough.
    assert engine.branched > STEPS - 2 * LOOKS


@pytest.mark.parametrize("branching, trees", [(10e-3, False), (0.0, True)])
def test_a_look_ends_where_it_teaches_nothing(branching, trees):
    """Every step runs a prompt's rows too, and is not timed."""
    engine = _with_branches(branching)
    engine.run(100)
    engine.branched = 0
    engine.run(STEPS, decoding=False)
    assert (engine.branched > 0.9 * STEPS) is trees and (engine.branched < 0.1 * STEPS) is not trees


def test_a_look_at_worse_drafts_starts_no_pause():
    """Chains gain a little, and branches cost much more than they give."""
    engine = Engine(FLAT, 20e-3, 22e-3, 7e-3, BRANCHING, WITH_SIBLINGS, branching=60e-3)
    engine.run(4 * LOOK_AGAIN)
    assert engine.resting == LOOK and engine.branched > 3 * LOOKS


def test_trees_that_pay_are_drafted_where_no_chain_does():
    """A step of one token is so much cheaper than one of two that only several paths together pay."""
    sizing = Sizing(StepClock(lambda: 0.0))
    sizing.step_cost = StepCost(np.array([8, 9, 64]), np.array([1.0, 1.8, 1.8]))
    kept = [sizing.keep(WITH_SIBLINGS, REQUESTS, BRANCHING) for _ in range(20)]
    assert all(nodes.any() for nodes in kept)


def test_chains_are_the_most_probable_paths():
    sizing = Sizing(StepClock(lambda: 0.0))
    sizing.step_cost = StepCost(np.array([8, 64]), np.array([1.0, 1.001]), side_path_seconds=10.0)
    kept = sizing.keep(WITH_SIBLINGS, REQUESTS, BRANCHING)
    assert kept.tolist() == [[True, False, True, False]] * REQUESTS


def test_without_a_measured_cost_it_never_rests():
    engine = Engine(None, 20e-3, 200e-3)
    engine.run(STEPS)
    assert engine.resting == 0


def _with_copies(drafting: float, copies: float) -> Engine:
    """Drafts gain 1.75 tokens for 22 ms and what they take themselves, copies by one token of that chance."""
    engine = Engine(FLAT, 20e-3, 22e-3, drafting)
    engine.copies = np.full((REQUESTS, 1), copies)
    return engine


def test_drafts_pause_for_copies_that_promise_more():
    engine = _with_copies(drafting=8e-3, copies=0.6)
    engine.run(STEPS)
    assert engine.resting > 0.8 * STEPS and engine.verified > STEPS - 3 * LOOKS


def test_drafts_that_pay_a_little_do_not_pause_for_copies_that_are_not_worth_verifying():
    """1.03 against 1.045."""
    engine = _with_copies(drafting=12e-3, copies=0.15)
    engine.run(STEPS)
    assert engine.resting == LOOK and engine.verified >= STEPS - LOOK - 2


def test_a_pause_for_copies_ends_with_them():
    engine = _with_copies(drafting=8e-3, copies=0.9)
    while engine.sizing.pause.steps < 200:
        engine.run(1)
    engine.copies, engine.drafted = np.zeros((REQUESTS, 1)), 0
    engine.run(200)
    assert engine.drafted >= 200 - FRUITLESS - LOOKS


def test_a_pause_of_drafts_that_do_not_pay_lasts_without_copies():
    engine = _with_copies(drafting=40e-3, copies=0.0)
    engine.run(2 * STEPS)
    assert engine.resting > 0.8 * 2 * STEPS


def test_what_plain_steps_take_is_looked_at_again_while_copies_pay():
    engine = _with_copies(drafting=8e-3, copies=0.9)
    # Three steps verify drafts before the first look begins, which is at plain steps alone.
    engine.run(1 + 3 + LOOK)
    assert engine.verified == 3
    engine.run(4 * LOOK_AGAIN)
    assert engine.verified <= 4 * LOOK_AGAIN - 2 * LOOKS
    # Plain steps have become cheaper than copies are worth.
    engine.plain, engine.verified = 8e-3, 0
    engine.run(2 * LOOK_AGAIN)
    assert engine.verified < LOOK_AGAIN + 3 * LOOKS


def test_a_look_beside_prompts_is_taken_again():
    """Drafts promise more than copies; what plain steps take was not seen where prompts were run too."""
    engine = _with_copies(drafting=1e-3, copies=0.6)
    engine.run(4)
    engine.run(12, decoding=False)
    engine.drafted = 0
    engine.run(STEPS)
    assert engine.drafted >= STEPS - 2 * LOOK
