"""Two ranks that share target and draft: nobody tells the other what was drafted, and both draft and verify the same trees."""

import signal
import sys

import cloudpickle
import pytest
import torch
import v2
from engines import accepted_tokens, answers, greedy, mixed_prompts
from tiny_models import draft_for
from v2 import engine

from vllm_specflash.draft import SpecFlashDraft

# The workers cannot import these files.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
cloudpickle.register_pickle_by_value(v2)
PROMPTS = mixed_prompts()[:4]


@pytest.fixture(scope="module")
def draft(llava, tmp_path_factory):
    """Two rounds deep, of a pruned vocabulary that both ranks hold a part of; its attention has a say."""
    folder = tmp_path_factory.mktemp("drafts") / "attending"
    draft = SpecFlashDraft.from_pretrained(
        draft_for(llava, folder, knowing=True, num_rounds=2, draft_vocab_size=78, transition_rank=4)
    )
    with torch.no_grad():
        draft.attention.o_proj.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    draft.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def deadline():
    """Ranks that wait for each other fail a test; vLLM would wait with them."""

    def late(*_):
        raise TimeoutError("the ranks wait for each other")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 400, 10)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


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
    # vLLM binds ranks to a NUMA node each, where there are as many.
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS", "0")
    with engine(llava, draft, tensor_parallel_size=2, distributed_executor_backend="mp") as llm:
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
