"""Draft lengths against a search over all of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.tree.cost import StepCost, best_sizes
from vllm_specflash.tree.overhead import Overhead

CPU_LIKE = StepCost.of({1: 16.5, 6: 16.5, 8: 18.8, 16: 24.1, 32: 39.6})


def rate(lengths, chances, requests, cost):
    tokens = requests + sum(lengths)
    return (requests + sum(row[:n].sum() for row, n in zip(chances, lengths))) / float(cost(np.array(tokens)))


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=3), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_lengths_are_the_best_of_all(conditional, idle):
    chances = np.cumprod(conditional, axis=1)
    requests = len(chances) + idle
    lengths = best_sizes(chances, requests, CPU_LIKE).lengths
    best = max(rate(each, chances, requests, CPU_LIKE) for each in itertools.product(range(4), repeat=len(chances)))
    assert rate(lengths, chances, requests, CPU_LIKE) == pytest.approx(best)
    assert all(chance > 0 for row, n in zip(chances, lengths) for chance in row[:n])


def test_drafts_shrink_as_the_batch_grows():
    chances = np.cumprod(np.full((1, 6), 0.7), axis=1)
    lengths = [
        best_sizes(np.repeat(chances, requests, axis=0), requests, CPU_LIKE).lengths.mean() for requests in (1, 4, 8, 32)
    ]
    assert lengths[0] >= 5 > lengths[1] > lengths[-1]


def test_without_a_cost_everything_with_a_chance_is_kept():
    assert best_sizes(np.array([[0.9, 0.1, 0.0], [0.0, 0.0, 0.0]]), 2, None).lengths.tolist() == [2, 0]


def test_smaller_batches_never_cost_more_and_cost_grows_beyond_the_last_size():
    cost = StepCost.of({1: 5.0, 2: 4.0, 4: 6.0})
    assert cost(np.array([1, 2, 3, 4, 6])).tolist() == [4.0, 4.0, 5.0, 6.0, 8.0]


def test_one_disturbed_measurement_does_not_end_drafting():
    disturbed = StepCost.of({1: 53.9, 2: 1926.7, 4: 19.9, 6: 23.0, 8: 24.1, 16: 229.1, 24: 36.7})
    assert best_sizes(np.cumprod(np.full((1, 5), 0.8), axis=1), 1, disturbed).lengths[0] >= 4


def test_drafting_stops_to_pay_under_load():
    chances = np.cumprod(np.full((1, 5), 0.6), axis=1)

    def gain(requests, draft_ms):
        batch = np.repeat(chances, requests, axis=0)
        return best_sizes(batch, requests, CPU_LIKE, draft_ms).gain

    assert gain(1, 0.0) == pytest.approx(1 + chances.sum())
    assert gain(1, 16.5) == pytest.approx((1 + chances.sum()) / 2)
    assert gain(32, 20.0) < 1
    assert best_sizes(np.zeros((1, 5)), 1, CPU_LIKE).gain == 1


def test_side_paths_are_drafted_only_where_they_pay_for_themselves():
    chances, starts = np.array([[0.8, 0.5, 0.3, 0.15]]), np.array([[False, False, True, True]])

    free, cheap, dear = (
        best_sizes(chances, 1, StepCost(np.array([1, 8]), np.array([10.0, 10.5]), side_path), starts_path=starts)
        for side_path in (0.0, 0.8, 3.0)
    )
    assert [sizes.lengths.tolist() for sizes in (free, cheap, dear)] == [[4], [3], [2]]
    assert free.gain > cheap.gain > dear.gain > 1


def test_what_steps_take_besides_counts_in_the_gain_and_not_in_the_lengths():
    chances = np.repeat(np.cumprod(np.full((1, 6), 0.7), axis=1), 8, axis=0)

    def sizes(plain, verifying):
        return best_sizes(chances, 8, CPU_LIKE, 4.0, overhead=Overhead(plain, verifying))

    nothing, both, verifying = sizes(0.0, 0.0), sizes(20.0, 20.0), sizes(0.0, 20.0)
    assert both.gain > nothing.gain > 1 > verifying.gain
    kept = nothing.lengths.sum()
    assert both.lengths.tolist() == nothing.lengths.tolist() == verifying.lengths.tolist()
    emitted = 8 + sum(chances[q, :n].sum() for q, n in enumerate(nothing.lengths))
    assert verifying.gain == pytest.approx(emitted / (float(CPU_LIKE(8 + kept)) + 4 + 20) / (8 / float(CPU_LIKE(8))))


def test_drafts_that_are_not_worth_verifying_cost_what_making_them_takes():
    gain = best_sizes(np.zeros((1, 5)), 1, CPU_LIKE, 4.0, overhead=Overhead(3.5, 100.0)).gain
    assert gain == pytest.approx((16.5 + 3.5) / (16.5 + 3.5 + 4.0))


def test_no_step_takes_less_than_no_time():
    assert best_sizes(np.full((1, 3), 0.5), 1, CPU_LIKE, overhead=Overhead(-1000.0, -1000.0)).gain > 1
