"""Trees in the real engine: answers stay plain vLLM's wherever in the tree the right token lies."""

import numpy as np
import pytest
import torch
from drafts import draft_for
from engines import accepted_tokens, answers, draft_stats, engine, greedy, mixed_prompts, runner, with_images
from tiny_models import tiny_qwen2_5_vl

from vllm_specflash.draft.core import DraftingCore
from vllm_specflash.engine.v1 import proposer
from vllm_specflash.tree.calibration import calibrated
from vllm_specflash.tree.cost import StepCost


@pytest.fixture
def misranking(monkeypatch, misranked_at_first):
    """The same with drafts that never learn better: the right token stays beside the most probable path to the end."""
    monkeypatch.setattr(proposer.Calibration, "observe", lambda *_: None)


@pytest.fixture
def misranked_at_first(monkeypatch):
    """Drafts that hold their first choice for the second: what the target wants lies beside the most probable path."""
    candidates_of = DraftingCore._candidates

    def swapped(*args):
        candidates = candidates_of(*args)
        order = torch.arange(candidates.tokens.shape[2])
        order[:2] = torch.tensor([1, 0])
        # The chances stay with their places, close enough for both to be drafted.
        first, following = candidates.first.clone(), candidates.following.clone()
        for table in (first, following):
            table[..., 0], table[..., 1], table[..., 2:] = 0.5, 0.4, 0.001
        return type(candidates)(candidates.tokens[:, :, order], first, following)

    monkeypatch.setattr(DraftingCore, "_candidates", swapped)


def assert_accepted_aside(llm, times: int = 20) -> None:
    """The tests below would show nothing if side paths were never taken."""
    stats = draft_stats(llm)
    assert stats["errors"] == 0
    assert stats["branching"] > times and stats["moved"] > times
    assert accepted_tokens(llm) > times


@pytest.mark.parametrize("block_size", [32, 128])
@pytest.mark.parametrize("nodes", [3, 16, 63])
def test_misranked_trees_leave_answers_identical(llava, drafts, plain_answers, misranking, nodes, block_size):
    options = {"num_speculative_tokens": nodes, "min_confidence": 0}
    with engine(llava, drafts["knowing"], options, block_size=block_size) as llm:
        assert answers(llm, mixed_prompts(), greedy()) == plain_answers
        assert_accepted_aside(llm)


def test_trees_beside_prefill_chunks(llava, drafts, plain_answers, misranking):
    with engine(llava, drafts["knowing"], max_num_batched_tokens=48, max_num_seqs=3, block_size=32) as llm:
        assert answers(llm, mixed_prompts(), greedy()) == plain_answers
        assert_accepted_aside(llm)


def test_what_side_paths_left_in_cached_blocks_is_right(llava, drafts, misranking):
    """The second question of a conversation reads the blocks that the first one's answer filled, side paths and all."""
    question = with_images("user: <image> tell me a long story about this, please, go on and on. assistant: ", 1)

    def follow_up(story: tuple[int, ...], llm) -> dict:
        text = question["prompt"] + llm.get_tokenizer().decode(story) + " user: and then? assistant: "
        return {**question, "prompt": text}

    with engine(llava, block_size=32) as llm:
        story = answers(llm, [question], greedy(100))[0]
        then = answers(llm, [follow_up(story, llm)], greedy(60))
    with engine(llava, drafts["knowing"], block_size=32, enable_prefix_caching=True) as llm:
        assert answers(llm, [question], greedy(100)) == [story]
        assert_accepted_aside(llm)
        assert answers(llm, [follow_up(story, llm)], greedy(60)) == then
        assert sum(m.value for m in llm.get_metrics() if m.name == "vllm:prefix_cache_hits") >= 64


def test_preemption_in_mid_tree(llava, drafts, plain_answers, misranking):
    with engine(llava, drafts["knowing"], num_gpu_blocks_override=14, block_size=32, max_model_len=256) as llm:
        assert answers(llm, mixed_prompts(), greedy()) == plain_answers
        assert sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions") > 0
        assert_accepted_aside(llm)


def test_trees_share_the_spare_blocks_there_are(llava, drafts, plain_answers, misranking, monkeypatch):
    monkeypatch.setattr("vllm_specflash.engine.v1.worker.choose_spare_blocks", lambda num_blocks: 2)
    with engine(llava, drafts["knowing"], block_size=32) as llm:
        assert answers(llm, mixed_prompts(), greedy()) == plain_answers
        stats = draft_stats(llm)
        assert stats["errors"] == 0 and stats["branching"] > 0


def test_trees_that_waited_a_step_meet_newer_ones(llava, drafts, misranking, monkeypatch):
    """A picture that is read in one piece ends a chunk early, which lets another request in, and leaves it no rows in the step after:
    its tree is verified beside one that was drafted while it waited, and the two need four spare blocks of two."""
    monkeypatch.setattr("vllm_specflash.engine.v1.worker.choose_spare_blocks", lambda num_blocks: 2)
    options = {"num_speculative_tokens": 16, "min_confidence": 0}
    settings = {"max_num_batched_tokens": 48, "max_num_seqs": 2, "block_size": 32, "disable_chunked_mm_input": True}
    prompts = [with_images("w" * 40 + "<image>" + "t" * 32, 1), "hello"]
    with engine(llava, **settings) as llm:
        expected = answers(llm, prompts, greedy())
    with engine(llava, drafts["knowing"], options, **settings) as llm:
        side_paths = runner(llm).side_paths
        begin, asked = side_paths.begin, []
        monkeypatch.setattr(side_paths, "begin", lambda *step: asked.append(begin(*step)) or asked[-1])
        assert answers(llm, prompts, greedy()) == expected
        assert asked.count(False) == 1 and asked.count(True) > 5
        assert draft_stats(llm)["errors"] == 0


def test_mrope_counts_depths(tmp_path, misranking):
    target = tiny_qwen2_5_vl(tmp_path / "tiny-qwen")
    draft = draft_for(target, tmp_path / "draft", knowing=True)
    text = "<|vision_start|><|image_pad|><|vision_end|> what is this, and what is beside it? "
    prompts = [with_images(text, 1), "no picture at all, just words. ", with_images("before that: " + text, 2)]
    with engine(target) as llm:
        expected = answers(llm, prompts, greedy())
    with engine(target, draft, block_size=32) as llm:
        assert answers(llm, prompts, greedy()) == expected
        assert_accepted_aside(llm)


@pytest.fixture(scope="module")
def knowing(llava, drafts):
    """An engine for tests that leave it as it was: where `misranking` holds, nothing is learnt."""
    with engine(llava, drafts["knowing"]) as llm:
        yield llm


@pytest.mark.parametrize("settings", [{"seed": 1}, {"logprobs": 1}, {"min_tokens": 5}, {"presence_penalty": 0.5}], ids=str)
def test_requests_that_read_drafts_in_order_get_chains(knowing, misranking, settings):
    draft_stats(knowing)
    answers(knowing, mixed_prompts()[:3], greedy(24, **settings))
    stats = draft_stats(knowing)
    assert stats["errors"] == 0 and stats["branching"] == 0 and stats["proposed_tokens"] > 0


def test_side_paths_that_cost_too_much_are_not_drafted(knowing, misranking, monkeypatch):
    drafter = runner(knowing).drafter
    sizes, seconds = np.array([1, 64]), np.array([1.0, 1.001])
    draft_stats(knowing)
    monkeypatch.setattr(drafter.sizing, "step_cost", StepCost(sizes, seconds, side_path_seconds=10.0))
    answers(knowing, mixed_prompts()[:1], greedy(24))
    stats = draft_stats(knowing)
    # Nodes of side paths lie between those of the chains that are left.
    assert stats["branching"] == stats["errors"] == 0 and stats["proposed_tokens"] > 2 * (stats["steps"] - 2)
    monkeypatch.setattr(drafter.sizing, "step_cost", StepCost(sizes, seconds, side_path_seconds=0.0))
    answers(knowing, mixed_prompts()[:1], greedy(24))
    assert draft_stats(knowing)["branching"] > 0


def test_chances_learn_from_what_the_target_took(llava, drafts, misranked_at_first):
    with engine(llava, drafts["knowing"]) as llm:
        answers(llm, mixed_prompts(), greedy())
        drafter = runner(llm).drafter
        first_choice, second_choice = calibrated(np.array([0.5, 0.4]), drafter.calibration.ratio)
        # The draft says 0.5 and 0.4; the target takes the second choice.
        assert first_choice < 0.45 and second_choice > 0.4
        # Once it knows, it puts the second choice first: the right token lies on the most probable path.
        stats = draft_stats(llm)
        assert stats["errors"] == 0 and 0 < stats["moved"] < stats["branching"] / 4


def test_chains_learn_from_what_the_target_took(llava, drafts, misranked_at_first):
    with engine(llava, drafts["knowing"], {"tree": False}) as llm:
        answers(llm, mixed_prompts(), greedy())
        ratio = runner(llm).drafter.calibration.ratio
        # The draft gives its first choice 0.5, and the target never takes it; of the second, 0.4, it has heard nothing.
        assert calibrated(np.array([0.5]), ratio) < 0.3 and calibrated(np.array([0.4]), ratio) == 0.4
        assert draft_stats(llm)["branching"] == 0


def test_drafting_goes_on_once_the_load_is_gone(llava, drafts):
    with engine(llava, drafts["knowing"]) as llm:
        drafter = runner(llm).drafter
        drafter.sizing.pause.weigh(gain=-100.0, requests=8)
        assert drafter.sizing.pause.steps > 2
        answers(llm, mixed_prompts()[:1], greedy(24))
        stats = draft_stats(llm)
        assert stats["paused_steps"] == 1 and stats["proposed_tokens"] > 0


def test_trees_can_be_turned_off(llava, drafts, plain_answers, misranking):
    with engine(llava, drafts["knowing"], {"tree": False}) as llm:
        assert answers(llm, mixed_prompts(), greedy()) == plain_answers
        stats = draft_stats(llm)
        assert stats["branching"] == 0 and stats["proposed_tokens"] > 0


def test_the_sampler_can_be_warmed_up_before_the_first_step(llava, drafts, plain_answers):
    """As vLLM's GPU worker does once the KV cache is there."""
    with engine(llava, drafts["knowing"]) as llm:
        ours = runner(llm)
        ours._dummy_sampler_run(torch.zeros(4, ours.model_config.get_hidden_size(), device=ours.device))
        assert answers(llm, mixed_prompts()[:2], greedy()) == plain_answers[:2]
