"""Drafts accepted by chance: as often as was asked for, and only where a benchmark asked."""

import pytest
import torch
from engines import engine, greedy, runner
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.config import SpecFlashError, SpecFlashOptions
from vllm_specflash.engine.synthetic import ALLOWED, assumed_chances, conditional, decide, depths, uniform
from vllm_specflash.triton_kernels.tree_accept import tree_accept

RATES = (0.8, 0.5, 0.2)


def accepted(requests: int, positions: torch.Tensor, chances=None) -> list[float]:
    """Share of requests, each in a slot of its own, whose first 1, 2, 3 depths were accepted; trees of 7 nodes."""
    parents = torch.tensor([-1, 0, 0, 1, 1, 3, 2]).repeat(requests)
    tokens = torch.tensor([5, 11, 12, 13, 14, 15, 16]).repeat(requests)
    bounds = torch.arange(0, 7 * requests + 1, 7)
    depth = depths(parents, bounds)
    assert depth[:7].tolist() == [0, 1, 1, 2, 2, 3, 2]
    slots = torch.arange(requests).repeat_interleave(7)
    drawn = uniform(slots, positions.repeat_interleave(7) + depth)
    # The target says what the second child holds, at every node: by itself it would walk aside.
    sampled = torch.full_like(tokens, 12)
    chances = torch.tensor(conditional(RATES)) if chances is None else chances
    found = tree_accept(*decide(tokens, parents, sampled, bounds, depth, drawn, chances)[:1], parents,
                        decide(tokens, parents, sampled, bounds, depth, drawn, chances)[1], bounds, 7)  # fmt: skip
    for length, nodes in zip(found.lengths.tolist(), found.nodes.tolist()):
        assert nodes[:length] == [1, 3, 5][:length]
    return [(found.lengths > d).float().mean().item() for d in range(3)]


def test_acceptance_per_depth_is_what_was_asked_for():
    requests = 4000
    measured = accepted(requests, torch.full((requests,), 37))
    for rate, share in zip(RATES, measured):
        # Four standard deviations.
        assert abs(share - rate) < 4 * (rate * (1 - rate) / requests) ** 0.5


def test_the_positions_of_one_request_are_as_good_as_many_requests():
    drawn = uniform(torch.zeros(4000, dtype=torch.int64), torch.arange(4000))
    assert abs(drawn.mean() - 0.5) < 4 * (1 / 12 / 4000) ** 0.5
    assert 0 <= drawn.min() and drawn.max() < 1
    # Neighbours know nothing of each other.
    assert abs(torch.corrcoef(torch.stack((drawn[1:], drawn[:-1])))[0, 1]) < 4 / 4000**0.5
    assert torch.equal(drawn, uniform(torch.zeros(4000, dtype=torch.int64), torch.arange(4000)))


def test_certain_and_impossible():
    assert accepted(20, torch.arange(20), torch.tensor(conditional((1.0, 1.0, 1.0)))) == [1, 1, 1]
    assert accepted(20, torch.arange(20), torch.tensor(conditional((0.0,)))) == [0, 0, 0]
    assert conditional((0.5, 0.0, 0.0))[:4] == [0.5, 0.0, 0.0, 0.0]


def test_a_token_that_a_grammar_ruled_out_is_not_taken():
    tokens, parents = torch.tensor([5, -1]), torch.tensor([-1, 0])
    _, sampled = decide(tokens, parents, torch.tensor([7, 8]), torch.tensor([0, 2]), torch.tensor([0, 1]), torch.zeros(2), torch.ones(2))
    assert sampled.tolist() == [7, 8]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_trees_are_chosen_as_if_the_draft_were_that_good(rates):
    rates = sorted(rates, reverse=True)
    first, following = assumed_chances(rates, 4, "cpu")
    assert first[0] == pytest.approx(rates[0]) and first.sum() <= 1 + 1e-6
    assert following.shape[1:] == (4, 4) and torch.equal(following[:, 0], following[:, 3])


def test_refused_outside_benchmarks(text_target):
    options = {"synthetic_acceptance": [0.9, 0.5]}
    with pytest.raises(SpecFlashError, match="answers meaningless"):
        with engine(text_target, text_target / "specflash", options):
            pass


@pytest.mark.parametrize("rates", [[], [0.5, 0.6], [1.1], [-0.1], ["0.5"], 0.5])
def test_rates_that_are_none_are_refused(rates):
    with pytest.raises(SpecFlashError, match="from 1 down to 0"):
        SpecFlashOptions.from_user({"method": "specflash", "synthetic_acceptance": rates})


@pytest.mark.parametrize("tree", [True, False], ids=["trees", "chains"])
def test_an_engine_accepts_by_chance(text_target, monkeypatch, tree):
    monkeypatch.setenv(ALLOWED, "1")
    options = {"synthetic_acceptance": [1.0, 1.0, 0.5], "tree": tree, "num_speculative_tokens": 5}
    with engine(text_target, text_target / "specflash", options) as llm:
        llm.generate(["a", "b", "c", "d"], greedy(97, ignore_eos=True), use_tqdm=False)
        assert runner(llm).rejection_sampler.synthetic is not None
        counts = {metric.name: metric for metric in llm.get_metrics() if metric.name.startswith("vllm:spec_decode")}
        tau = 1 + counts["vllm:spec_decode_num_accepted_tokens"].value / counts["vllm:spec_decode_num_drafts"].value
    # Two tokens always and one in half of some 110 steps; the last step of each request may be cut.
    assert 3.2 < tau < 3.8
