"""Drafts copy what the text has read before: answers stay plain vLLM's, and a draft that knows nothing is accepted all the same."""

import itertools

import numpy as np
import pytest
from engines import PAYING, accepted_tokens, answers, deepest_accepted, draft_stats, engine, greedy, mixed_prompts, runner

from vllm_specflash.tree.cost import StepCost

LOOKUP = {"lookup": True, "min_confidence": 0}
# Of the tiny target, which before long repeats itself.
TOKENS = 96


@pytest.fixture(scope="module")
def long_answers(llava):
    with engine(llava) as llm:
        return answers(llm, mixed_prompts(), greedy(TOKENS))


@pytest.mark.parametrize("draft", ["random", "nan"])
@pytest.mark.parametrize(
    "options", [{"num_speculative_tokens": 16}, {"num_speculative_tokens": 12, "tree": False}, {"num_speculative_tokens": 3}], ids=str
)
def test_a_draft_that_knows_nothing_is_accepted_where_the_text_repeats_itself(llava, drafts, long_answers, draft, options):
    with engine(llava, drafts[draft], {**LOOKUP, **options}) as llm:
        assert answers(llm, mixed_prompts(), greedy(TOKENS)) == long_answers
        assert draft_stats(llm)["errors"] == 0
        assert accepted_tokens(llm) > sum(map(len, long_answers)) / 4
        # As deep as the draft's own tokens go, and copies alone beyond.
        assert deepest_accepted(llm) == options["num_speculative_tokens"]


def test_without_lookup_it_is_not(llava, drafts, long_answers):
    with engine(llava, drafts["random"], {"num_speculative_tokens": 16, "min_confidence": 0}) as llm:
        assert answers(llm, mixed_prompts(), greedy(TOKENS)) == long_answers
        assert accepted_tokens(llm) < sum(map(len, long_answers)) / 5 and deepest_accepted(llm) <= 5


def test_copies_beside_prefill_chunks_and_under_preemption(llava, drafts, long_answers):
    settings = {"max_num_batched_tokens": 48, "max_num_seqs": 3, "num_gpu_blocks_override": 12, "block_size": 32, "max_model_len": 320}
    with engine(llava, drafts["knowing"], LOOKUP, **settings) as llm:
        assert answers(llm, mixed_prompts(), greedy(TOKENS)) == long_answers
        assert draft_stats(llm)["errors"] == 0 and accepted_tokens(llm) > 100
        assert sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions") > 0


def test_tokens_that_the_target_has_no_embedding_for_are_not_copied(llava, drafts, monkeypatch):
    """A prompt says them where pictures stand, right behind what the answer's end reads like."""
    with engine(llava, drafts["random"], LOOKUP) as llm:
        core = runner(llm).drafter.core
        propose, copied = core.propose, []
        monkeypatch.setattr(core, "propose", lambda rows, queries, *rest: copied.append(queries.copies) or propose(rows, queries, *rest))
        answers(llm, mixed_prompts(), greedy(TOKENS))
    vocabulary = core.model.config.target_vocab_size
    tokens = [token for copies in copied for row, matched in zip(*copies) if matched for token in row.tolist()]
    assert tokens and 0 <= min(tokens) and max(tokens) < vocabulary


def test_a_pause_drafts_copies_without_the_network(llava, drafts, long_answers, monkeypatch):
    with engine(llava, drafts["random"], LOOKUP | {"sizing": "auto"}) as llm:
        drafter = runner(llm).drafter
        drafter.sizing.step_cost = PAYING
        monkeypatch.setattr(drafter.sizing.pause, "take_step", lambda: True)
        monkeypatch.setattr(drafter.core, "propose", lambda *_: 1 / 0)
        copy, given = drafter.copy, []
        monkeypatch.setattr(drafter, "copy", lambda texts: given.append((texts.room.tolist(), copy(texts))) or given[-1][1])
        assert answers(llm, mixed_prompts(), greedy(TOKENS)) == long_answers
        stats = draft_stats(llm)
        # A step that drafts copies is none without drafts.
        assert stats["errors"] == 0 and 0 < stats["paused_steps"] < stats["steps"] / 2
        assert accepted_tokens(llm) > sum(map(len, long_answers)) / 4 and deepest_accepted(llm) > 10
    lengths = [(len(draft), room) for rooms, drafts in given for room, draft in zip(rooms, drafts)]
    assert all(length <= room for length, room in lengths) and any(0 < length == room < 10 for length, room in lengths)


def test_a_pause_copies_beside_prompts_too(llava, drafts, long_answers, monkeypatch):
    with engine(llava, drafts["random"], LOOKUP | {"sizing": "auto"}, max_num_batched_tokens=48) as llm:
        model_runner, drafter = runner(llm), runner(llm).drafter
        drafter.sizing.step_cost = PAYING
        monkeypatch.setattr(drafter.sizing.pause, "take_step", lambda: True)
        copy, beside_prompts = drafter.copy, []

        def copied(texts):
            drafts = copy(texts)
            if not model_runner._decoding().all():
                beside_prompts.append([len(draft) for draft in drafts])
            return drafts

        monkeypatch.setattr(drafter, "copy", copied)
        assert answers(llm, mixed_prompts(), greedy(TOKENS)) == long_answers
        assert draft_stats(llm)["errors"] == 0
    assert any(map(any, beside_prompts)) and all(0 in lengths for lengths in beside_prompts)


def test_copies_below_the_confidence_that_is_asked_for_are_not_drafted(llava, drafts, long_answers, monkeypatch):
    """Neither in a pause, nor in what drafts are weighed against."""
    with engine(llava, drafts["random"], {"lookup": True, "min_confidence": 0.3, "sizing": "auto"}) as llm:
        drafter, steps, offered = runner(llm).drafter, itertools.count(), []
        drafter.sizing.step_cost = PAYING
        monkeypatch.setattr(drafter.sizing.pause, "take_step", lambda: next(steps) % 2 > 0)
        best = drafter.sizing._copies
        monkeypatch.setattr(drafter.sizing, "_copies", lambda chances, requests: offered.append(chances) or best(chances, requests))
        assert answers(llm, mixed_prompts(), greedy(TOKENS)) == long_answers
        assert draft_stats(llm)["errors"] == 0
    chances = np.concatenate([part.ravel() for part in offered])
    assert ((chances == 0) | (chances >= 0.3)).all() and (chances > 0).sum() > 100


def test_copies_that_cost_more_than_they_promise_are_not_drafted(llava, drafts, long_answers, monkeypatch):
    with engine(llava, drafts["random"], LOOKUP | {"sizing": "auto"}) as llm:
        drafter = runner(llm).drafter
        # Every token of a batch takes as long as the first.
        drafter.sizing.step_cost = StepCost(np.array([1, 64]), np.array([1.0, 64.0]))
        monkeypatch.setattr(drafter.sizing.pause, "take_step", lambda: True)
        assert answers(llm, mixed_prompts(), greedy(TOKENS)) == long_answers
        assert draft_stats(llm)["proposed_tokens"] == 0


def test_by_default_targets_that_see_pictures_make_no_copies(llava, drafts, text_target):
    for target, draft, copies in ((llava, drafts["random"], False), (text_target, text_target / "specflash", True)):
        with engine(target, draft, {"lookup": None}) as llm:
            assert (runner(llm).drafter.core.copied > 0) == copies


def test_drafts_are_weighed_against_copies_alone(llava, drafts, monkeypatch):
    """As likely as their texts make them, request by request, and none beyond the room that is left."""
    with engine(llava, drafts["random"], LOOKUP) as llm:
        drafter = runner(llm).drafter
        choose, keep, weighed = drafter._choose, drafter.sizing.keep, []

        def chosen(tokens, trees, copies, requests, step, given):
            rooms = step.room[requests]
            monkeypatch.setattr(
                drafter.sizing, "keep", lambda *args: weighed.append((args[3](), copies.matched.tolist(), rooms.tolist())) or keep(*args)
            )
            choose(tokens, trees, copies, requests, step, given)

        monkeypatch.setattr(drafter, "_choose", chosen)
        answers(llm, mixed_prompts()[:3], greedy(TOKENS))
        assert draft_stats(llm)["errors"] == 0
    matched = [(row, length, room) for chances, lengths, rooms in weighed for row, length, room in zip(chances, lengths, rooms)]
    assert all((row[0] > 0) == (length > 0) and not row[room:].any() for row, length, room in matched)
    assert any(length > 10 and room > 10 and row[10] > 0.1 for row, length, room in matched)
