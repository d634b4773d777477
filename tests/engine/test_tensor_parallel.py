"""Two ranks share target and draft: answers stay plain vLLM's, and both ranks mean the same trees whatever befalls one of them."""

import sys

import cloudpickle
import pytest
from engines import accepted_tokens, answers, engine, greedy, mixed_prompts
from ranks import TWO_RANKS, attending_draft, deadline, on_one_machine
from vllm import SamplingParams

from vllm_specflash.tree.calibration import Calibration

# The workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def draft(llava, tmp_path_factory):
    return attending_draft(llava, tmp_path_factory.mktemp("drafts") / "attending")


@pytest.fixture(scope="module")
def pair(llava, draft):
    """An engine of two ranks, each in a process of its own."""
    with pytest.MonkeyPatch.context() as patch:
        on_one_machine(patch)
        with engine(llava, draft, block_size=32, **TWO_RANKS) as llm:
            llm.collective_rpc(record)
            yield llm


@pytest.fixture(autouse=True)
def in_time(pair):
    with deadline(120):
        yield


def record(worker) -> None:
    """Keep what this rank takes to have been drafted, by request and position, from now on."""
    runner, drafts_of = worker.model_runner, {}
    agreed = runner.drafter.agreed

    def recording(req_ids, drafts):
        drafts = agreed(req_ids, drafts)
        for req_id, draft in zip(req_ids, drafts):
            request = runner.requests[req_id]
            parents = runner.drafter.drafted(req_id, len(draft)).parents
            key = int(req_id.split("-")[0]), request.num_tokens
            drafts_of[key] = (request.output_token_ids[-1:], draft, parents)
        return drafts

    runner.drafter.agreed, runner.drafts_of = recording, drafts_of


def unlearn(worker) -> None:
    worker.model_runner.drafter.calibration = Calibration()


def recorded(llm) -> list[dict]:
    """Of every rank, since the last call; requests count from 0."""

    def take(worker):
        drafts_of = worker.model_runner.drafts_of.copy()
        worker.model_runner.drafts_of.clear()
        first = min(request for request, _ in drafts_of)
        return {(request - first, position): drafts for (request, position), drafts in drafts_of.items()}

    return llm.collective_rpc(take)


def assert_ranks_agree(llm) -> dict:
    one, other = recorded(llm)
    assert one == other
    assert any(drafts for _, drafts, _ in one.values())
    return one


def test_answers_of_two_ranks_are_those_of_plain_vllm(pair, plain_answers):
    assert answers(pair, mixed_prompts(), greedy()) == plain_answers
    stats, stats_of_other = pair.collective_rpc("specflash_stats")
    assert stats["errors"] == stats_of_other["errors"] == 0
    assert stats["branching"] > 20 and stats["moved"] > 0 and stats["moved"] == stats_of_other["moved"]
    assert accepted_tokens(pair) > 50
    assert_ranks_agree(pair)


def test_two_ranks_draft_what_one_does(pair, llava, draft, plain_answers):
    """Sharded heads, latents, rounds and lm_head: but for rounding, the same trees everywhere."""
    pair.collective_rpc(unlearn)
    answers(pair, mixed_prompts(), greedy())
    of_two = assert_ranks_agree(pair)
    with engine(llava, draft, block_size=32) as llm:
        llm.collective_rpc(record)
        answers(llm, mixed_prompts(), greedy())
        (of_one,) = recorded(llm)
    both = of_one.keys() & of_two.keys()
    same = [key for key in both if of_one[key] == of_two[key]]
    assert len(both) > 100 and len(same) > 0.95 * len(both), (len(same), len(both))


def test_ranks_agree_on_sampled_answers(pair):
    settings = [{}, {"seed": 5}, {"top_p": 0.8}, {"top_k": 10, "logprobs": 2}, {"presence_penalty": 0.5}]
    params = [SamplingParams(temperature=1.0, max_tokens=32, **settings[i % 5]) for i in range(len(mixed_prompts()))]
    answers(pair, mixed_prompts(), params)
    assert_ranks_agree(pair)


def test_a_pause_of_one_rank_is_a_pause_of_both(pair, plain_answers):
    def think_drafting_does_not_pay(worker):
        if worker.rank == 0:
            worker.model_runner.drafter.sizing.pause._gain = -10

    pair.collective_rpc(think_drafting_does_not_pay)
    assert answers(pair, mixed_prompts(), greedy()) == plain_answers
    pauses = [drafts for _, drafts, _ in assert_ranks_agree(pair).values() if not drafts]
    assert len(pauses) > 16


# Between the all-reduces of a step, and, on the rank that chooses, after them.
PLACES = [*((rank, where) for rank in (0, 1) for where in ("model.fuse", "model.attention.heads", "model.predict")), (0, "_choose")]


@pytest.mark.parametrize("rank, where", PLACES)
def test_an_error_on_one_rank_stops_neither(pair, plain_answers, rank, where):
    def break_down(worker):
        *path, name = where.split(".")
        owner = worker.model_runner.drafter
        for part in path:
            owner = getattr(owner, part)
        whole, calls = getattr(owner, name), []

        def sometimes(*args):
            calls.append(args)
            if len(calls) % 4 == 0:
                raise RuntimeError("broken for a test")
            return whole(*args)

        if worker.rank == rank:
            setattr(owner, name, sometimes)
            worker.model_runner.mend = lambda: setattr(owner, name, whole)

    def mend(worker):
        if worker.rank == rank:
            worker.model_runner.mend()

    pair.collective_rpc("specflash_stats")
    pair.collective_rpc(break_down)
    try:
        assert answers(pair, mixed_prompts(), greedy()) == plain_answers
    finally:
        pair.collective_rpc(mend)
    errors = [stats["errors"] for stats in pair.collective_rpc("specflash_stats")]
    assert errors[rank] > 3 and errors[1 - rank] == 0
    assert_ranks_agree(pair)
