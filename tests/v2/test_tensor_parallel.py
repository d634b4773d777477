"""Two ranks that share target and draft: nobody tells the other what was drafted, and both draft and verify the same trees."""

import sys

import cloudpickle
import pytest
import v2
from engines import accepted_tokens, answers, greedy, mixed_prompts
from ranks import TWO_RANKS, attending_draft, deadline, on_one_machine
from v2 import engine

# The workers cannot import these files.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
cloudpickle.register_pickle_by_value(v2)
PROMPTS = mixed_prompts()[:4]


@pytest.fixture(scope="module")
def draft(llava, tmp_path_factory):
    return attending_draft(llava, tmp_path_factory.mktemp("drafts") / "attending")


@pytest.fixture(autouse=True)
def in_time():
    with deadline(400):
        yield


def hurry(worker) -> None:
    patch = pytest.MonkeyPatch()
    v2.torch_paths(patch)
    v2.torch_prompts(patch)


def record(worker) -> None:
    """Keep every step's drafts, trees and calibration from now on."""
    speculator = worker.model_runner.speculator
    draft_step, speculator.recorded = speculator.draft_step, []

    def recording(num_rows, requests):
        draft_step(num_rows, requests)
        slots = speculator.queries.cut(requests)[0]
        tree = speculator.tables.trees.parents[slots]
        speculator.recorded.append(
            (speculator.drafts[:requests].tolist(), tree.tolist(), speculator.calibration.ratio.tolist())
        )

    speculator.draft_step = recording


def recorded(worker) -> list:
    return worker.model_runner.speculator.recorded


def test_ranks_draft_alike_and_answers_are_those_of_plain_vllm(llava, draft, plain_answers, monkeypatch):
    on_one_machine(monkeypatch)
    with engine(llava, draft, **TWO_RANKS) as llm:
        llm.collective_rpc(hurry)
        llm.collective_rpc(record)
        assert answers(llm, PROMPTS, greedy(16)) == [tokens[:16] for tokens in plain_answers[: len(PROMPTS)]]
        one, other = llm.collective_rpc("specflash_stats")
        assert one["errors"] == other["errors"] == 0
        assert one["moved"] == other["moved"] > 0 and accepted_tokens(llm) > 20
        ours, theirs = llm.collective_rpc(recorded)
        assert len(ours) > 5 and ours == theirs
        # Calibration learned something, on both.
        assert ours[-1][2] != ours[0][2]
