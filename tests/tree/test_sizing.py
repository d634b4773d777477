"""Drafting goes on or rests by what steps take, whatever was measured of the target's forward before."""

import numpy as np
import pytest

from vllm_specflash.tree.cost import StepCost
from vllm_specflash.tree.overhead import StepClock
from vllm_specflash.tree.pause import LOOK
from vllm_specflash.tree.sizing import Sizing
from vllm_specflash.tree.step import Draft, StepTrees

REQUESTS, STEPS = 8, 400
# Half of all first tokens are taken, and a quarter of all second ones.
CHANCES = np.tile([0.5, 0.25], (REQUESTS, 1))
NO_PATHS = np.zeros_like(CHANCES, dtype=bool)


class Engine:
    """A target whose steps take what it says and not what was measured."""

    def __init__(self, measured: StepCost | None, plain: float, verifying: float, drafting: float = 2e-3):
        self.now, self.plain, self.verifying, self.drafting = 0.0, plain, verifying, drafting
        self.sizing = Sizing(StepClock(lambda: self.now))
        self.sizing.step_cost = measured
        self.resting = self.verified = 0

    def run(self, steps: int) -> None:
        kept = np.zeros(REQUESTS, dtype=int)
        for _ in range(steps):
            trees = StepTrees.of([Draft.chain(n) for n in kept.tolist()]) if kept.any() else None
            tokens = REQUESTS + int(kept.sum())
            self.now += self.verifying if trees else self.plain
            self.verified += trees is not None
            resting = self.sizing.rests(REQUESTS)
            self.resting += resting
            kept = np.zeros(REQUESTS, dtype=int) if resting else self.sizing.keep(CHANCES, REQUESTS, NO_PATHS)
            drafting = 0.0 if resting else self.drafting
            self.now += drafting
            self.sizing.end_step(REQUESTS, tokens, trees, drafting, decoding=True)


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


def test_without_a_measured_cost_it_never_rests():
    engine = Engine(None, 20e-3, 200e-3)
    engine.run(STEPS)
    assert engine.resting == 0
