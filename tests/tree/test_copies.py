"""Copies by themselves: as likely as what was measured of their length, and no longer than a request has room for."""

import numpy as np
import pytest
import torch

from vllm_specflash.tree.build import best_trees
from vllm_specflash.tree.calibration import UNCALIBRATED
from vllm_specflash.tree.copies import WEIGHT, copied_chances
from vllm_specflash.tree.cost import StepCost
from vllm_specflash.tree.overhead import Kind, StepClock
from vllm_specflash.tree.sizing import LOOKS, Sizing
from vllm_specflash.triton_kernels.find_copies import LONGEST, Copies


def copies(*matched: int, length: int = 6) -> Copies:
    return Copies(torch.zeros(len(matched), length, dtype=torch.int64), torch.tensor(matched, dtype=torch.int32))


def test_chances_are_the_weights_of_what_matches_one_after_the_other():
    conditional, chances = copied_chances(copies(2, LONGEST, 0), np.array([6, 3, 6]), UNCALIBRATED)
    assert conditional[0].tolist() == WEIGHT[2:8].tolist() and (conditional[1] == WEIGHT[LONGEST]).all()
    np.testing.assert_allclose(chances[0], np.cumprod(WEIGHT[2:8]))
    np.testing.assert_allclose(chances[1], [*np.cumprod([WEIGHT[LONGEST]] * 3), 0, 0, 0])
    assert not chances[2].any()


def test_what_the_target_took_corrects_them():
    ratio = UNCALIBRATED.copy()
    ratio[:] = 0.5
    conditional, chances = copied_chances(copies(4, length=2), np.array([2]), ratio)
    assert conditional[0].tolist() == WEIGHT[4:6].tolist()
    np.testing.assert_allclose(chances[0], np.cumprod(WEIGHT[4:6] / 2))


@pytest.fixture
def sizing():
    """Of a target whose second token in a step costs a tenth of its first."""
    sizing = Sizing(StepClock(lambda: 0.0))
    sizing.step_cost = StepCost(np.array([1, 64]), np.array([1.0, 7.3]))
    return sizing


def look(sizing, requests):
    """What a pause begins with in batches of so many requests, whatever is promised: plain steps."""
    for _ in range(LOOKS):
        assert not sizing.keep_copies(np.ones((requests, 1)), requests).any()


def test_copies_are_as_long_as_they_promise_to_pay(sizing):
    _, chances = copied_chances(copies(LONGEST, 1, 0), np.array([6, 6, 6]), UNCALIBRATED)
    look(sizing, 3)
    look(sizing, 1)
    assert sizing.keep_copies(chances, 3).tolist() == [6, 0, 0]
    # Hardly more than nothing is not worth it.
    assert not sizing.keep_copies(np.array([[0.101]]), 1).any()


def test_plain_steps_are_seen_first_at_every_load_and_once(sizing):
    _, chances = copied_chances(copies(LONGEST), np.array([6]), UNCALIBRATED)
    for requests in (1, 8):
        look(sizing, requests)
    for requests in (1, 8):
        assert sizing.keep_copies(chances, requests).tolist() == [6]


def test_before_a_plain_step_was_seen_there_are_none(sizing):
    """Where drafts were: however often that was looked at in vain."""
    _, chances = copied_chances(copies(LONGEST), np.array([6]), UNCALIBRATED)
    for _ in range(2):
        sizing._clock.end_step(1, Kind.CHAINS, 0.0)
    for _ in range(2 * LOOKS):
        assert not sizing.keep_copies(chances, 1).any()
    sizing._clock.end_step(1, Kind.PLAIN, 0.0)
    assert sizing.keep_copies(chances, 1).tolist() == [6]


@pytest.mark.parametrize("matched, pauses", [(LONGEST, True), (0, False)])
def test_drafts_that_gain_less_than_copies_alone_pause(sizing, matched, pauses):
    """The draft's one token is right with 0.3, which pays; six copied ones cost no draft and pay more."""
    trees = best_trees(np.array([[0.3]], np.float32), np.zeros((1, 0, 1, 1), np.float32), 1)
    _, copied = copied_chances(copies(matched), np.array([6]), UNCALIBRATED)
    for _ in range(60):
        sizing.keep(trees.chance, 1, trees, lambda: copied)
    assert (sizing.pause.steps > 0) == pauses
