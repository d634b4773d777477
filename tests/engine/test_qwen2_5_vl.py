"""Qwen2.5-VL's architecture: M-RoPE, images of different sizes, real video input."""

import numpy as np
import pytest
from engines import accepted_tokens, answers, draft_stats, engine, greedy, noise_image
from tiny_models import draft_for, tiny_qwen2_5_vl

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return tiny_qwen2_5_vl(tmp_path_factory.mktemp("qwen") / "tiny-qwen2.5-vl")


def video(frames, size, seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, size, size, 3), dtype=np.uint8)
    metadata = {
        "fps": 2.0, "duration": frames / 2, "total_num_frames": frames, "frames_indices": list(range(frames)),
        "video_backend": "opencv", "do_sample_frames": False,
    }  # fmt: skip
    return pixels, metadata


def prompts():
    def images(*seed_sizes):
        return {"image": [noise_image(seed, size) for seed, size in seed_sizes]}

    return [
        {"prompt": f"user: {IMAGE} what? assistant: ", "multi_modal_data": images((1, 64))},
        {"prompt": f"user: {IMAGE} or {IMAGE}? assistant: ", "multi_modal_data": images((2, 32), (3, 96))},
        {"prompt": f"user: {VIDEO} what moves? assistant: ", "multi_modal_data": {"video": [video(6, 48, 4)]}},
        "user: only words. assistant: ",
    ]


def test_images_and_videos_are_identical_to_plain(target, tmp_path):
    limits = {"max_num_batched_tokens": 48, "limit_mm_per_prompt": {"image": 2, "video": 1}}
    with engine(target, **limits) as llm:
        expected = answers(llm, prompts(), greedy())
    with engine(target, draft_for(target, tmp_path / "draft", knowing=True), **limits) as llm:
        assert answers(llm, prompts(), greedy()) == expected
        assert draft_stats(llm)["errors"] == 0
        assert accepted_tokens(llm) > 20
