"""Greedy answers equal plain vLLM's, token for token, in float32, whatever the draft and the schedule."""

import pytest
from drafts import draft_for
from engines import PAYING, accepted_tokens, answers, draft_stats, engine, greedy, mixed_prompts, runner, with_images
from tiny_models import tiny_llama


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("knowing", {"sizing": "auto"}),
        ("knowing", {"num_speculative_tokens": 12, "min_confidence": 0}),
        ("random", {"min_confidence": 0}),
        ("nan", {"min_confidence": 0}),
        ("plain", {"num_speculative_tokens": 3, "min_confidence": 0}),
        ("layers", {"min_confidence": 0}),
    ],
)
def test_any_draft_leaves_answers_identical(llava, drafts, plain_answers, name, options):
    with engine(llava, drafts[name], options) as llm:
        drafter = runner(llm).drafter
        assert (drafter.sizing.step_cost is not None) == ("sizing" in options)
        if drafter.sizing.step_cost:
            drafter.sizing.step_cost = PAYING
        assert answers(llm, mixed_prompts(), greedy()) == plain_answers
        stats = draft_stats(llm)
        assert stats["errors"] == 0
        if name in ("knowing", "layers"):
            assert accepted_tokens(llm) > 50
        elif name == "nan":
            assert stats["proposed_tokens"] == 0
        else:
            assert stats["proposed_tokens"] > accepted_tokens(llm)


def test_chunked_prefill_that_splits_images(llava, drafts, plain_answers):
    with engine(llava, drafts["knowing"], max_num_batched_tokens=19, max_num_seqs=3) as llm:
        assert answers(llm, mixed_prompts(), greedy()) == plain_answers
        assert draft_stats(llm)["errors"] == 0
        assert accepted_tokens(llm) > 50


def test_a_target_with_several_groups_of_kv_cache(tmp_path):
    """The groups' layers share bytes: under another group's block table the draft would write over the target's keys."""
    target = tiny_llama(tmp_path / "target", window=24)
    draft = draft_for(target, tmp_path / "draft", knowing=True)
    prompts = [number * "user: one more question, please. assistant: " for number in range(1, 6)]
    with engine(target) as llm:
        expected = answers(llm, prompts, greedy())
    with engine(target, draft) as llm:
        groups = [group.layer_names for group in runner(llm).kv_cache_config.kv_cache_groups]
        assert len(groups) > 1 and runner(llm).drafter.cache.layer_name not in groups[0]
        assert answers(llm, prompts, greedy()) == expected
        assert draft_stats(llm)["errors"] == 0 and accepted_tokens(llm) > 10


def test_prefix_caching_with_shared_images(llava, drafts):
    shared = "user: <image> <image> a long shared beginning of the conversation, word after word, that fills blocks. "
    prompts = [with_images(shared + question, 1, 2) for question in ("what? ", "where? ", "what? why? ", "what? ")]
    with engine(llava, block_size=32) as llm:
        expected = answers(llm, prompts, greedy())
    with engine(llava, drafts["knowing"], enable_prefix_caching=True, block_size=32) as llm:
        one_by_one = [answers(llm, [prompt], greedy())[0] for prompt in prompts]
        together = answers(llm, prompts, greedy())
        hits = sum(m.value for m in llm.get_metrics() if m.name == "vllm:prefix_cache_hits")
        assert draft_stats(llm)["errors"] == 0
    assert one_by_one == together == expected
    assert hits > 0


def test_preemption_under_a_tiny_cache(llava, drafts, plain_answers):
    with engine(llava, drafts["knowing"], num_gpu_blocks_override=14, block_size=32, max_model_len=256) as llm:
        assert answers(llm, mixed_prompts(), greedy()) == plain_answers
        preempted = sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions")
        assert draft_stats(llm)["errors"] == 0
    assert preempted > 0


def test_abort_in_mid_stream_disturbs_no_one(llava, drafts, plain_answers):
    with engine(llava, drafts["knowing"]) as llm:
        prompts = mixed_prompts()
        for index, prompt in enumerate(prompts):
            llm.llm_engine.add_request(str(index), prompt, greedy())
        done, steps = {}, 0
        while llm.llm_engine.has_unfinished_requests():
            for out in llm.llm_engine.step():
                if out.finished:
                    done[int(out.request_id.split("-")[0])] = tuple(out.outputs[0].token_ids)
            steps += 1
            if steps == 4:
                llm.llm_engine.abort_request(["1", "2"])
        stats = draft_stats(llm)
        proposer = runner(llm).drafter
        assert stats["errors"] == 0
        assert not proposer._spans or len(proposer._spans) <= 8
    assert {index: done[index] for index in done} == {i: plain_answers[i] for i in range(len(prompts)) if i not in (1, 2)}


def test_max_model_len_edge(llava, drafts):
    prompts = ["user: short. ", with_images("user: <image> at the end of the model's length. ", 1)]
    with engine(llava, max_model_len=96) as llm:
        expected = answers(llm, prompts, greedy(500))
    with engine(llava, drafts["knowing"], max_model_len=96) as llm:
        assert answers(llm, prompts, greedy(500)) == expected
        assert draft_stats(llm)["errors"] == 0
