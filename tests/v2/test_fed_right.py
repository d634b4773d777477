"""The draft is fed right on Model Runner V2 (tests/engine/test_fed_right.py has the same for V1, and what the words mean)."""

from contextlib import contextmanager

import pytest
import v2
from dense import TOLERANCE, DenseDraft
from engines import engine, noise_image, with_images
from feeding import cache_hits, furthest, listen
from tiny_models import draft_for, tiny_llava, tiny_qwen2_5_vl

BLOCK, TOKENS = 32, 12
TREES = {"num_speculative_tokens": 8, "min_confidence": 0}
PROMPTS = [
    "user: hello, who are you? assistant: ",
    with_images("user: first <image> then some words and <image><image> compare. ", 8, 9, 10),
    with_images("<image>", 11),
]


@contextmanager
def v2_engine(target, draft, **overrides):
    """For fixtures of a module as well, which come before the patches that every test here gets."""
    with pytest.MonkeyPatch.context() as patches:
        v2.keep_async_scheduling(patches)
        v2.without_sorting_kernel(patches)
        with engine(target, draft, TREES, **overrides) as llm:
            assert llm.llm_engine.vllm_config.scheduler_config.async_scheduling
            yield llm


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return tiny_llava(tmp_path_factory.mktemp("targets") / "tiny-llava")


@pytest.fixture(scope="module")
def draft(target, tmp_path_factory):
    return draft_for(target, tmp_path_factory.mktemp("drafts") / "noticing", noticing=True)


@pytest.fixture(scope="module")
def dense(target, draft):
    return DenseDraft(target, draft)


@pytest.fixture(scope="module")
def plainly(target, draft):
    """The prompts in one batch, with the draft's own trees."""
    with v2_engine(target, draft) as llm:
        return listen(llm, PROMPTS, TOKENS)


@pytest.fixture(scope="module")
def cached(target, draft):
    """`cached(prompts)`: listen to one after the other on an engine with a prefix cache; and how many tokens came from there."""
    with v2_engine(target, draft, enable_prefix_caching=True, block_size=BLOCK) as llm:

        def ask(prompts, truth=()):
            before = cache_hits(llm)
            return listen(llm, prompts, TOKENS, truth, one_by_one=True), cache_hits(llm) - before

        yield ask


def test_text_and_images_in_one_batch(dense, plainly):
    assert furthest(plainly, dense) < TOLERANCE


def test_chunks_that_split_images_and_side_paths(target, draft, dense, plainly):
    with v2_engine(target, draft, max_num_batched_tokens=23, max_num_seqs=2) as llm:
        heard = listen(llm, PROMPTS, TOKENS, truth=plainly.finished)
    assert heard.answers == plainly.answers
    assert heard.side_paths > 3
    assert furthest(heard, dense) < TOLERANCE


def test_preemption(target, draft, dense, plainly):
    with v2_engine(target, draft, num_gpu_blocks_override=8, block_size=BLOCK, max_model_len=128) as llm:
        heard = listen(llm, PROMPTS, TOKENS, truth=plainly.finished)
        assert sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions") > 0
    assert heard.answers == plainly.answers
    assert furthest(heard, dense) < TOLERANCE


def test_two_rounds(target, plainly, tmp_path):
    draft = draft_for(target, tmp_path / "two-rounds", noticing=True, num_rounds=2, semi_ar_width=3)
    with v2_engine(target, draft) as llm:
        heard = listen(llm, PROMPTS[:2], TOKENS, truth=plainly.finished[:2])
    assert heard.answers == plainly.answers[:2]
    assert heard.side_paths > 0
    assert furthest(heard, DenseDraft(target, draft)) < TOLERANCE


def test_prefix_cache_hit_inside_an_image(cached, dense):
    prompts = [with_images(f"user: look there! <image> {question}? assistant: ", 1) for question in ("what", "where")]
    heard, hits = cached(prompts)
    assert hits == BLOCK
    assert dense.sample(heard.finished[1]).spans == [(BLOCK - 14, 16)]
    heard.finished[1].pooled_from = {0: BLOCK}
    assert furthest(heard, dense) < TOLERANCE


def test_prefix_cache_hit_on_an_answer(cached, dense, plainly):
    """A conversation goes on: the next request reads a block that decoding filled, from side paths too."""
    first = plainly.finished[2]
    assert first.prompt_length == 16

    def more(answered):
        return {"prompt_token_ids": answered[0].token_ids[15:] + answered[0].token_ids[16:] * 2, **PROMPTS[2]}

    heard, hits = cached([PROMPTS[2], more], truth=[first])
    assert hits == BLOCK
    assert furthest(heard, dense) < TOLERANCE


def test_another_token_behind_a_cached_block(cached, dense):
    shared = "user: " + "0123456789" * 3
    prompts = [shared[:BLOCK] + question for question in ("what is this? ", "now go on. ")]
    heard, hits = cached(prompts)
    assert hits == BLOCK
    first, second = heard.finished
    assert first.token_ids[BLOCK] != second.token_ids[BLOCK]
    assert heard.answers[1] == dense.says(second)
    assert furthest(heard, dense) > TOLERANCE
    second.read_as = {BLOCK: first.token_ids[BLOCK]}
    assert furthest(heard, dense) < TOLERANCE


def test_mrope_and_more_latents_than_visual_tokens(tmp_path):
    target = tiny_qwen2_5_vl(tmp_path / "tiny-qwen2.5-vl")
    draft = draft_for(target, tmp_path / "draft", noticing=True, num_latents=9, variant="plain")
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    pictures = {"image": [noise_image(2, 32), noise_image(3, 64)]}
    prompts = [{"prompt": f"user: {image} or {image}? ", "multi_modal_data": pictures}]
    with v2_engine(target, draft, limit_mm_per_prompt={"image": 2, "video": 0}) as llm:
        heard = listen(llm, prompts, TOKENS)
    dense = DenseDraft(target, draft)
    assert [length for _, length in dense.sample(heard.finished[0]).spans] == [4, 16]
    assert heard.answers == [dense.says(request) for request in heard.finished]
    assert furthest(heard, dense) < TOLERANCE
