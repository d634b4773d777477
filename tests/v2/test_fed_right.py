"""The draft is fed right on Model Runner V2 (tests/engine/test_fed_right.py has the same for V1, and what the words mean)."""

from functools import partial

import pytest
import torch
import v2
from dense import TOLERANCE, DenseDraft
from drafts import draft_for
from engines import with_images
from feeding import furthest, listen, listen_for_hits
from feeding_checks import BLOCK, check_another_token_behind_a_cached_block, check_hit_inside_an_image, check_pictures
from qwen import pictures_and_none, with_pictures
from tiny_models import tiny_qwen2_5_vl

TOKENS = 12
TREES = {"num_speculative_tokens": 8, "min_confidence": 0, "lookup": True}
PROMPTS = [
    "user: hello, who are you? assistant: ",
    with_images("user: first <image> then some words and <image><image> compare. ", 8, 9, 10),
    with_images("<image>", 11),
    with_images("<image> look at: ", 12),
]


@pytest.fixture(scope="module")
def plainly(llava, noticing):
    """The prompts in one batch, with the draft's own trees."""
    with v2.engine(llava, noticing, TREES) as llm:
        return listen(llm, PROMPTS, TOKENS)


@pytest.fixture(scope="module")
def cached(llava, noticing):
    """`cached(prompts)`: listen to one after the other on an engine with a prefix cache; and how many tokens came from there."""
    with v2.engine(llava, noticing, TREES, enable_prefix_caching=True, block_size=BLOCK) as llm:
        yield partial(listen_for_hits, llm, TOKENS)


def test_text_and_images_in_one_batch(dense, plainly):
    assert furthest(plainly, dense) < TOLERANCE


def test_chunks_that_split_images_and_side_paths(llava, noticing, dense, plainly):
    with v2.engine(llava, noticing, TREES, max_num_batched_tokens=23, max_num_seqs=2) as llm:
        heard = listen(llm, PROMPTS, TOKENS, truth=plainly.finished)
    assert heard.answers == plainly.answers
    assert heard.side_paths > 3
    assert furthest(heard, dense) < TOLERANCE


def test_preemption(llava, noticing, dense, plainly):
    with v2.engine(llava, noticing, TREES, num_gpu_blocks_override=8, max_model_len=128) as llm:
        heard = listen(llm, PROMPTS, TOKENS, truth=plainly.finished)
        assert v2.metric(llm, "num_preemptions") > 0
    assert heard.answers == plainly.answers
    assert furthest(heard, dense) < TOLERANCE


def test_two_rounds_a_feed_forward_block_and_latents_that_know_places_and_inputs(llava, plainly, tmp_path):
    placed = {"compressor": "placed", "visual_features": "both", "latent_positions": 16, "latent_heads": 2}
    draft = draft_for(llava, tmp_path / "draft", noticing=True, num_rounds=2, semi_ar_width=3, feed_forward=48, **placed)
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
    check_hit_inside_an_image(cached, dense)


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
    check_another_token_behind_a_cached_block(cached, dense)


def test_mrope_and_more_latents_than_visual_tokens(tmp_path):
    target = tiny_qwen2_5_vl(tmp_path / "tiny-qwen2.5-vl")
    draft = draft_for(target, tmp_path / "draft", noticing=True, num_latents=9, variant="plain")
    with v2.engine(target, draft, TREES, limit_mm_per_prompt={"image": 2, "video": 0}) as llm:
        heard = listen(llm, pictures_and_none(), TOKENS)
    check_pictures(heard, DenseDraft(target, draft), [[16], [4, 16], []])


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
    with v2.engine(target, draft, TREES, max_num_batched_tokens=19, limit_mm_per_prompt={"image": 2, "video": 0}) as llm:
        heard = listen(llm, pictures_and_none(), TOKENS)
    check_pictures(heard, DenseDraft(target, draft), [[5, 5, 6], [4, 5, 5, 6], []])


def test_there_is_room_for_more_pieces_than_for_whole_pictures(tmp_path):
    target = tiny_qwen2_5_vl(tmp_path / "tiny-qwen2.5-vl", pixels=1 << 15)
    draft = draft_for(target, tmp_path / "draft", noticing=True, num_latents=1, pool_length=1)
    with v2.engine(target, draft, TREES, limit_mm_per_prompt={"image": 1, "video": 0}) as llm:
        heard = listen(llm, [with_pictures("user: <image> what? ", (1, 96))], TOKENS)
        # A request with more than there is room for is asked like any other, and drafts nothing.
        assert v2.metric(llm, "spec_decode_num_draft_tokens") > 0
    check_pictures(heard, DenseDraft(target, draft), [[1] * 36])
