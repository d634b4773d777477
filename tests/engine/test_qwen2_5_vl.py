"""Qwen2.5-VL's architecture: M-RoPE, images of different sizes, real video input."""

import pytest
from drafts import draft_for
from engines import accepted_tokens, answers, draft_stats, engine, greedy
from qwen import pictures_and_videos
from tiny_models import tiny_qwen2_5_vl


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return tiny_qwen2_5_vl(tmp_path_factory.mktemp("qwen") / "tiny-qwen2.5-vl")


def test_images_and_videos_are_identical_to_plain(target, tmp_path):
    limits = {"max_num_batched_tokens": 48, "limit_mm_per_prompt": {"image": 2, "video": 1}}
    with engine(target, **limits) as llm:
        expected = answers(llm, pictures_and_videos(), greedy())
    with engine(target, draft_for(target, tmp_path / "draft", knowing=True), **limits) as llm:
        assert answers(llm, pictures_and_videos(), greedy()) == expected
        assert draft_stats(llm)["errors"] == 0
        assert accepted_tokens(llm) > 20
