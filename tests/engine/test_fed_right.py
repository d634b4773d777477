"""The draft is fed right: its chances in the engine are those of the dense training forward over the finished sequence.

Every row that the random draft of these tests attends to shows in its chances, so a key in a wrong slot, a latent at a wrong
place, a hidden state of another node, a wrong position or next token is seen.
"""

from functools import partial

import pytest
import torch
from dense import TOLERANCE, DenseDraft, apart
from drafts import draft_for
from engines import engine, mixed_prompts, with_images
from feeding import furthest, listen, listen_for_hits
from feeding_checks import BLOCK, check_another_token_behind_a_cached_block, check_hit_inside_an_image, check_pictures, pieces
from qwen import pictures_and_none, with_pictures
from tiny_models import tiny_qwen2_5_vl

from vllm_specflash.train.batch import collate
from vllm_specflash.train.forward import answer_states

TOKENS = 20
TREES = {"num_speculative_tokens": 10, "min_confidence": 0, "lookup": True}


@pytest.fixture(scope="module")
def plainly(llava, noticing):
    """The mixed prompts in one batch, with the draft's own trees."""
    with engine(llava, noticing, TREES) as llm:
        heard = listen(llm, mixed_prompts(), TOKENS)
    return heard


@pytest.fixture(scope="module")
def cached(llava, noticing):
    """`cached(prompts)`: listen to one after the other on an engine with a prefix cache; and how many tokens came from there."""
    with engine(llava, noticing, TREES, enable_prefix_caching=True, block_size=BLOCK) as llm:
        yield partial(listen_for_hits, llm, TOKENS)


def test_every_row_of_the_context_shows(dense, plainly):
    """What makes all other tests here see anything: without any one row, chances move far beyond the tolerance."""
    for request in (plainly.finished[0], plainly.finished[3]):
        whole = dense.candidates(request)
        last = max(whole)
        rows = dense.rows(request)
        moved = [apart(dense.candidates(request, {last}, without)[last], whole[last]) for without in range(0, rows - 1, 2)]
        assert min(moved) > 10 * TOLERANCE
        assert sorted(moved)[len(moved) // 2] > 100 * TOLERANCE


def test_the_reference_is_the_forward_of_training(dense, plainly):
    request = plainly.finished[3]
    sample, said = dense.sample(request), dense.candidates(request)
    batch, hidden = collate([sample], dense.pooling, dense.width), dense.target.hidden_states([sample])
    states = answer_states(dense.draft, batch, hidden, dense.target.embedding)
    chances = (states @ dense.lm_head.T).softmax(-1)[:, 0].sort(descending=True).values
    positions = batch.answer_from.tolist()
    # Sums in another order: 2e-6 apart on some CPUs.
    torch.testing.assert_close(chances, torch.cat([said[t].first for t in positions]), atol=TOLERANCE / 10, rtol=0)


def test_text_and_images_in_one_batch(dense, plainly):
    assert furthest(plainly, dense) < TOLERANCE


def test_chunks_that_split_images_and_side_paths(llava, noticing, dense, plainly):
    with engine(llava, noticing, TREES, max_num_batched_tokens=19, max_num_seqs=3) as llm:
        heard = listen(llm, mixed_prompts(), TOKENS, truth=plainly.finished)
    assert heard.answers == plainly.answers
    assert heard.side_paths > 15
    assert furthest(heard, dense) < TOLERANCE


def test_preemption(llava, noticing, dense, plainly):
    with engine(llava, noticing, TREES, num_gpu_blocks_override=11, block_size=BLOCK, max_model_len=192) as llm:
        heard = listen(llm, mixed_prompts(), TOKENS, truth=plainly.finished)
        assert sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions") > 0
    assert heard.answers == plainly.answers
    assert furthest(heard, dense) < TOLERANCE


def test_two_rounds_a_feed_forward_block_and_latents_that_know_places_and_inputs(llava, plainly, tmp_path):
    placed = {"compressor": "placed", "visual_features": "both", "latent_positions": 16, "latent_heads": 2}
    draft = draft_for(llava, tmp_path / "draft", noticing=True, num_rounds=2, semi_ar_width=3, feed_forward=48, **placed)
    with engine(llava, draft, TREES, max_num_batched_tokens=27, max_num_seqs=4) as llm:
        heard = listen(llm, mixed_prompts()[:5], TOKENS, truth=plainly.finished[:5])
    assert heard.answers == plainly.answers[:5]
    assert heard.side_paths > 0
    assert furthest(heard, DenseDraft(llava, draft)) < TOLERANCE


def test_pictures_that_are_not_compressed(llava, plainly, tmp_path):
    draft = draft_for(llava, tmp_path / "draft", noticing=True, compressor="none")
    with engine(llava, draft, TREES, max_num_batched_tokens=27, max_num_seqs=4) as llm:
        heard = listen(llm, mixed_prompts()[:5], TOKENS, truth=plainly.finished[:5])
    dense = DenseDraft(llava, draft)
    assert dense.rows(heard.finished[3]) == len(heard.finished[3].token_ids) - 1
    assert heard.answers == plainly.answers[:5]
    assert furthest(heard, dense) < TOLERANCE


def test_prefix_cache_hit_inside_an_image(cached, dense):
    check_hit_inside_an_image(cached, dense)


def test_prefix_cache_hit_on_an_answer(cached, dense, plainly):
    """A conversation goes on: the next request reads a block that decoding filled, from side paths too."""
    first = plainly.finished[8]

    def more(answered):
        ids, ((start, length),) = answered[0].token_ids, dense.sample(answered[0]).spans
        return {"prompt_token_ids": ids[: start + 1] + ids[start + length :] + ids[:6], "multi_modal_data": {"image": first.images}}

    heard, hits = cached([mixed_prompts()[8], more], truth=[first])
    assert hits == 5 * BLOCK
    assert first.prompt_length < 5 * BLOCK - 8 and heard.side_paths > 2
    assert furthest(heard, dense) < TOLERANCE


def test_another_token_behind_a_cached_block(cached, dense):
    check_another_token_behind_a_cached_block(cached, dense)


def test_mrope_and_more_latents_than_visual_tokens(tmp_path):
    target = tiny_qwen2_5_vl(tmp_path / "tiny-qwen2.5-vl")
    draft = draft_for(target, tmp_path / "draft", noticing=True, num_latents=9, variant="plain")
    with engine(target, draft, TREES, max_num_batched_tokens=48, limit_mm_per_prompt={"image": 2, "video": 0}) as llm:
        heard = listen(llm, pictures_and_none(), TOKENS)
    check_pictures(heard, DenseDraft(target, draft), [[16], [4, 16], []])


def test_eight_pictures_and_more_than_two_thousand_visual_tokens(tmp_path):
    target = tiny_qwen2_5_vl(tmp_path / "tiny-qwen2.5-vl", pixels=1 << 17, positions=4096)
    draft = draft_for(target, tmp_path / "draft", noticing=True, num_latents=16)
    pictures = [(seed, 256 + 16 * (seed % 3)) for seed in range(8)]
    prompts = [with_pictures(f"user: {'<image>' * 8} what? assistant: ", *pictures)]
    limits = {"max_model_len": 2560, "max_num_batched_tokens": 700, "max_num_seqs": 1}
    with engine(target, draft, TREES, limit_mm_per_prompt={"image": 8, "video": 0}, **limits) as llm:
        heard = listen(llm, prompts, TOKENS)
    dense = DenseDraft(target, draft)
    lengths = [length for _, length in dense.sample(heard.finished[0]).spans]
    assert len(lengths) == 8 and sum(lengths) > 2048
    assert dense.rows(heard.finished[0]) == len(heard.finished[0].token_ids) - 1 - sum(lengths) + 8 * 16
    assert heard.answers == [dense.says(request) for request in heard.finished]
    assert furthest(heard, dense) < TOLERANCE


@pytest.mark.parametrize("layers, compressor", [([1, 0], "paper"), ([0], "none")], ids=str)
def test_states_of_other_layers(llava, plainly, tmp_path, layers, compressor):
    """Of visual positions too, where they are not compressed."""
    draft = draft_for(llava, tmp_path / "draft", noticing=True, target_layers=layers, compressor=compressor)
    with engine(llava, draft, TREES, max_num_batched_tokens=19, max_num_seqs=3) as llm:
        heard = listen(llm, mixed_prompts(), TOKENS, truth=plainly.finished)
    assert heard.answers == plainly.answers
    assert heard.side_paths > 15
    assert furthest(heard, DenseDraft(llava, draft)) < TOLERANCE


@pytest.mark.parametrize("features", ["states", "embeddings"])
def test_latents_that_grow_with_the_picture(tmp_path, features):
    """Pictures of 4 and 16 positions in pieces of at most 7, which prefill's chunks cut once more."""
    target = tiny_qwen2_5_vl(tmp_path / "tiny-qwen2.5-vl")
    shape = {"compressor": "placed", "visual_features": features, "num_latents": 2, "pool_length": 7, "latent_positions": 7}
    draft = draft_for(target, tmp_path / "draft", noticing=True, **shape)
    with engine(target, draft, TREES, max_num_batched_tokens=19, limit_mm_per_prompt={"image": 2, "video": 0}) as llm:
        heard = listen(llm, pictures_and_none(), TOKENS)
    check_pictures(heard, DenseDraft(target, draft), [[5, 5, 6], [4, 5, 5, 6], []])


def test_pieces_of_a_picture_that_the_prefix_cache_holds_are_whole(llava, tmp_path):
    """A picture of 16 positions in pieces of 5, 5 and 6, the last of which the cached block ends in: that one alone is pooled from less."""
    draft = draft_for(llava, tmp_path / "draft", noticing=True, num_latents=2, pool_length=6)
    dense = DenseDraft(llava, draft)
    prompts = [with_images(f"user: look there! <image> {question}? assistant: ", 1) for question in ("what", "where")]
    with engine(llava, draft, TREES, enable_prefix_caching=True, block_size=BLOCK) as llm:
        heard, hits = listen_for_hits(llm, TOKENS, prompts)
    assert hits == BLOCK
    assert pieces(heard, dense)[1] == [(BLOCK - 14, 5), (BLOCK - 9, 5), (BLOCK - 4, 6)]
    assert furthest(heard, dense) > TOLERANCE
    heard.finished[1].pooled_from = {2: BLOCK}
    assert furthest(heard, dense) < TOLERANCE
