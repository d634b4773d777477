"""The draft is fed right: its chances in the engine are those of the dense training forward over the finished sequence.

Every row that the random draft of these tests attends to shows in its chances, so a key in a wrong slot, a latent at a wrong
place, a hidden state of another node, a wrong position or next token is seen.
"""

import pytest
import torch
from dense import TOLERANCE, DenseDraft, apart
from engines import draft_stats, engine, mixed_prompts, noise_image, with_images
from feeding import furthest, listen
from tiny_models import draft_for, tiny_qwen2_5_vl

from vllm_specflash.train.batch import collate
from vllm_specflash.train.forward import answer_states

BLOCK, TOKENS = 32, 20
TREES = {"num_speculative_tokens": 10, "min_confidence": 0}


@pytest.fixture(scope="module")
def draft(llava, tmp_path_factory):
    return draft_for(llava, tmp_path_factory.mktemp("drafts") / "noticing", noticing=True)


@pytest.fixture(scope="module")
def dense(llava, draft):
    return DenseDraft(llava, draft)


@pytest.fixture(scope="module")
def plainly(llava, draft):
    """The mixed prompts in one batch, with the draft's own trees."""
    with engine(llava, draft, TREES) as llm:
        heard = listen(llm, mixed_prompts(), TOKENS)
        assert draft_stats(llm)["errors"] == 0
    return heard


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
    batch, hidden = collate([sample], dense.num_latents, dense.width), dense.target.hidden_states([sample])
    states = answer_states(dense.draft, batch, hidden, dense.target.embedding)
    chances = (states @ dense.lm_head.T).softmax(-1)[:, 0].sort(descending=True).values
    positions = batch.answer_from.tolist()
    torch.testing.assert_close(chances, torch.cat([said[t].first for t in positions]), atol=1e-6, rtol=0)


def test_text_and_images_in_one_batch(dense, plainly):
    assert furthest(plainly, dense) < TOLERANCE


def test_chunks_that_split_images_and_side_paths(llava, draft, dense, plainly):
    with engine(llava, draft, TREES, max_num_batched_tokens=19, max_num_seqs=3) as llm:
        heard = listen(llm, mixed_prompts(), TOKENS, truth=plainly.finished)
        assert draft_stats(llm)["errors"] == 0
    assert heard.answers == plainly.answers
    assert heard.side_paths > 15
    assert furthest(heard, dense) < TOLERANCE


def test_preemption(llava, draft, dense, plainly):
    with engine(llava, draft, TREES, num_gpu_blocks_override=11, block_size=BLOCK, max_model_len=192) as llm:
        heard = listen(llm, mixed_prompts(), TOKENS, truth=plainly.finished)
        assert draft_stats(llm)["errors"] == 0
        assert sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions") > 0
    assert heard.answers == plainly.answers
    assert furthest(heard, dense) < TOLERANCE


def test_two_rounds(llava, plainly, tmp_path):
    draft = draft_for(llava, tmp_path / "two-rounds", noticing=True, num_rounds=2, semi_ar_width=3)
    with engine(llava, draft, TREES) as llm:
        heard = listen(llm, mixed_prompts()[:5], TOKENS, truth=plainly.finished[:5])
        assert draft_stats(llm)["errors"] == 0
    assert heard.answers == plainly.answers[:5]
    assert heard.side_paths > 0
    assert furthest(heard, DenseDraft(llava, draft)) < TOLERANCE


def test_prefix_cache_hit_inside_an_image(llava, draft, dense):
    """Of an image that ends behind a cached block, the latents in that block stay as they were pooled, over all of it."""
    prompts = [with_images(f"user: look there! <image> {question}? assistant: ", 1) for question in ("what", "where")]
    with engine(llava, draft, TREES, enable_prefix_caching=True, block_size=BLOCK) as llm:
        heard = listen(llm, prompts, TOKENS, one_by_one=True)
        assert hits(llm) == BLOCK
        assert draft_stats(llm)["errors"] == 0
    # Four latents, two on either side of the block's end.
    assert dense.sample(heard.finished[1]).spans == [(BLOCK - 14, 16)]
    heard.finished[1].pooled_from = {0: BLOCK}
    assert furthest(heard, dense) < TOLERANCE


def test_prefix_cache_hit_on_an_answer(llava, draft, dense):
    """A conversation goes on: blocks that decoding filled, from side paths too, are read by the next request."""
    question = with_images("user: <image> tell me of this: ", 2)
    with engine(llava, draft, TREES) as llm:
        first, = listen(llm, [question], 3 * BLOCK).finished
    more = {**question, "prompt": None, "prompt_token_ids": first.token_ids}
    with engine(llava, draft, TREES, enable_prefix_caching=True, block_size=BLOCK) as llm:
        heard = listen(llm, [question], 3 * BLOCK, truth=[first])
        
        assert draft_stats(llm)["errors"] == 0


def test_another_token_after_a_cached_block(llava, draft, dense, llama_free=None):
    pass


def hits(llm) -> int:
    """Tokens that vLLM took from its prefix cache."""
    return sum(m.value for m in llm.get_metrics() if m.name == "vllm:prefix_cache_hits")
