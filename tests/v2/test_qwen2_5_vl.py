"""Qwen2.5-VL's architecture: M-RoPE, images of different sizes, real video input, and side paths in all of them."""

import pytest
from drafts import draft_for
from engines import answers, draft_stats, greedy, runner
from qwen import pictures_and_videos
from tiny_models import tiny_qwen2_5_vl
from v2 import engine

LIMITS = {"limit_mm_per_prompt": {"image": 2, "video": 1}}
TOKENS = 32
# Patches of 8 pixels, merged four by four, and two frames to one; no image over 64 x 64; 4 latents each.
VISUAL_TOKENS, LATENTS = 16 + 4 + 16 + 3 * 9, 4 * 4


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return tiny_qwen2_5_vl(tmp_path_factory.mktemp("qwen") / "tiny-qwen2.5-vl")


@pytest.fixture(scope="module")
def draft(target, tmp_path_factory):
    return draft_for(target, tmp_path_factory.mktemp("qwen") / "draft", knowing=True)


@pytest.fixture(scope="module")
def plain(target):
    with engine(target, **LIMITS) as llm:
        return answers(llm, pictures_and_videos(), greedy(TOKENS))


def test_side_paths_count_depths_in_all_three_positions(target, draft, plain, misranking):
    with engine(target, draft, max_num_batched_tokens=48, **LIMITS) as llm:
        assert answers(llm, pictures_and_videos(), greedy(TOKENS)) == plain
        stats = draft_stats(llm)
        assert (stats["visual_tokens"], stats["latents"]) == (VISUAL_TOKENS, LATENTS)
        assert stats["moved"] > 20


def test_without_the_correction_answers_differ(target, draft, plain, misranking):
    """The test above would see nodes at the wrong M-RoPE positions."""
    with engine(target, draft, **LIMITS) as llm:
        ours = runner(llm)
        prepare, none = ours.model_state.prepare_inputs, ours.speculator.rows.back

        def uncorrected(batch, states):
            inputs = prepare(batch, states)
            inputs["positions"][..., : batch.num_tokens] += none[: batch.num_tokens]
            return inputs

        ours.model_state.prepare_inputs = uncorrected
        assert answers(llm, pictures_and_videos(), greedy(TOKENS)) != plain
