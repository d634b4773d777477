"""The draft is fed right on Model Runner V2 (tests/engine/test_fed_right.py has the same for V1, and what the words mean)."""

import pytest
import torch
import v2
from dense import TOLERANCE, DenseDraft
from engines import noise_image, with_images
from feeding import cache_hits, furthest, listen
from tiny_models import draft_for, tiny_qwen2_5_vl

# v2.engine's block size, and the tokens of an answer.
BLOCK, TOKENS = 32, 12
TREES = {"num_speculative_tokens": 8, "min_confidence": 0}
PROMPTS = [
    "user: hello, who are you? assistant: ",
    with_images("user: first <image> then some words and <image><image> compare. ", 8, 9, 10),
    with_images("<image>", 11),
    with_images("<image> look at: ", 12),
]


@pytest.fixture(scope="module")
def draft(llava, tmp_path_factory):
    return draft_for(llava, tmp_path_factory.mktemp("drafts") / "noticing", noticing=True)


@pytest.fixture(scope="module")
def dense(llava, draft):
    return DenseDraft(llava, draft)


@pytest.fixture(scope="module")
def plainly(llava, draft):
    """The prompts in one batch, with the draft's own trees."""
    with v2.engine(llava, draft, TREES) as llm:
        return listen(llm, PROMPTS, TOKENS)


@pytest.fixture(scope="module")
def cached(llava, draft):
    """`cached(prompts)`: listen to one after the other on an engine with a prefix cache; and how many tokens came from there."""
    with v2.engine(llava, draft, TREES, enable_prefix_caching=True) as llm:

        def ask(prompts, truth=()):
            before = cache_hits(llm)
            return listen(llm, prompts, TOKENS, truth, one_by_one=True), cache_hits(llm) - before

        yield ask


def test_text_and_images_in_one_batch(dense, plainly):
    assert furthest(plainly, dense) < TOLERANCE


def test_chunks_that_split_images_and_side_paths(llava, draft, dense, plainly):
    with v2.engine(llava, draft, TREES, max_num_batched_tokens=23, max_num_seqs=2) as llm:
        heard = listen(llm, PROMPTS, TOKENS, truth=plainly.finished)
    assert heard.answers == plainly.answers
    assert heard.side_paths > 3
    assert furthest(heard, dense) < TOLERANCE


def test_preemption(llava, draft, dense, plainly):
    with v2.engine(llava, draft, TREES, num_gpu_blocks_override=8, max_model_len=128) as llm:
        heard = listen(llm, PROMPTS, TOKENS, truth=plainly.finished)
        assert v2.metric(llm, "num_preemptions") > 0
    assert heard.answers == plainly.answers
    assert furthest(heard, dense) < TOLERANCE


def test_two_rounds_and_latents_that_know_places_and_inputs(llava, plainly, tmp_path):
    placed = {"compressor": "placed", "visual_features": "both", "latent_positions": 16, "latent_heads": 2}
    draft = draft_for(llava, tmp_path / "draft", noticing=True, num_rounds=2, semi_ar_width=3, **placed)
    with v2.engine(llava, draft, TREES, max_num_batched_tokens=27, max_num_seqs=2) as llm:
        heard = listen(llm, PROMPTS[:2], TOKENS, truth=plainly.finished[:2])
    assert heard.answers == plainly.answers[:2]
    assert heard.side_paths > 0
    assert furthest(heard, DenseDraft(llava, draft)) < TOLERANCE


def test_a_target_that_adds_to_its_inputs_in_place(llava, plainly, tmp_path):
    """As those on GPUs do: fused kernels leave the residual where the inputs were."""
    draft = draft_for(llava, tmp_path / "draft", noticing=True, compressor="placed", visual_features="embeddings", latent_positions=16)

    def spoil(worker):
        def spoiled(model, arguments, inputs, output):
            if inputs.get("inputs_embeds") is not None:
                inputs["inputs_embeds"].fill_(torch.nan)

        worker.model_runner.model.register_forward_hook(spoiled, with_kwargs=True)

    with v2.engine(llava, draft, TREES) as llm:
        llm.collective_rpc(spoil)
        heard = listen(llm, PROMPTS[1:2], TOKENS, truth=plainly.finished[1:2])
    assert heard.answers == plainly.answers[1:2]
    assert furthest(heard, DenseDraft(llava, draft)) < TOLERANCE


def test_pictures_that_are_not_compressed(llava, plainly, tmp_path):
    draft = draft_for(llava, tmp_path / "draft", noticing=True, compressor="none")
    with v2.engine(llava, draft, TREES, max_num_batched_tokens=27, max_num_seqs=2) as llm:
        heard = listen(llm, PROMPTS[:2], TOKENS, truth=plainly.finished[:2])
    assert heard.answers == plainly.answers[:2]
    assert furthest(heard, DenseDraft(llava, draft)) < TOLERANCE


def test_prefix_cache_hit_inside_an_image(cached, dense):
    prompts = [with_images(f"user: look there! <image> {question}? assistant: ", 1) for question in ("what", "where")]
    heard, hits = cached(prompts)
    assert hits == BLOCK
    assert dense.sample(heard.finished[1]).spans == [(BLOCK - 14, 16)]
    heard.finished[1].pooled_from = {0: BLOCK}
    assert furthest(heard, dense) < TOLERANCE


def test_prefix_cache_hit_on_an_answer(cached, dense, plainly):
    """A conversation goes on: the next request reads a block that decoding filled, from side paths too."""
    first = plainly.finished[3]
    assert first.prompt_length == BLOCK - 6

    def more(answered):
        # One placeholder stands for the image again.
        ids = answered[0].token_ids
        return {"prompt_token_ids": ids[15:] + ids[:-6:-1], "multi_modal_data": PROMPTS[3]["multi_modal_data"]}

    heard, hits = cached([PROMPTS[3], more], truth=[first])
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
    with v2.engine(target, draft, TREES, limit_mm_per_prompt={"image": 2, "video": 0}) as llm:
        heard = listen(llm, prompts, TOKENS)
    dense = DenseDraft(target, draft)
    assert [length for _, length in dense.sample(heard.finished[0]).spans] == [4, 16]
    assert heard.answers == [dense.says(request) for request in heard.finished]
    assert furthest(heard, dense) < TOLERANCE


def test_states_of_other_layers(llava, plainly, tmp_path):
    draft = draft_for(llava, tmp_path / "draft", noticing=True, target_layers=[1, 0])
    with v2.engine(llava, draft, TREES, max_num_batched_tokens=23, max_num_seqs=2) as llm:
        heard = listen(llm, PROMPTS, TOKENS, truth=plainly.finished)
    assert heard.answers == plainly.answers
    assert heard.side_paths > 3
    assert furthest(heard, DenseDraft(llava, draft)) < TOLERANCE


def test_latents_that_grow_with_the_picture(tmp_path):
    target = tiny_qwen2_5_vl(tmp_path / "tiny-qwen2.5-vl")
    shape = {"compressor": "placed", "visual_features": "embeddings", "num_latents": 2, "pool_length": 7, "latent_positions": 7}
    draft = draft_for(target, tmp_path / "draft", noticing=True, **shape)
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    pictures = {"image": [noise_image(2, 32), noise_image(3, 64)]}
    prompts = [{"prompt": f"user: {image} or {image}? ", "multi_modal_data": pictures}]
    with v2.engine(target, draft, TREES, max_num_batched_tokens=19, limit_mm_per_prompt={"image": 2, "video": 0}) as llm:
        heard = listen(llm, prompts, TOKENS)
    dense = DenseDraft(target, draft)
    assert dense.rows(heard.finished[0]) == len(heard.finished[0].token_ids) - 1 - 20 + 4 * 2
    assert heard.answers == [dense.says(request) for request in heard.finished]
    assert furthest(heard, dense) < TOLERANCE
