"""Drafts that see several layers of the target, and positions weighted as decoding would meet them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from vllm_specflash.config import SpecFlashError
from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft
from vllm_specflash.draft.compressor import Pooling
from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.batch import collate
from vllm_specflash.train.forward import compressed_inputs
from vllm_specflash.train.loss import LossOptions, draft_losses, step_starts
from vllm_specflash.train.prompts import Prompt
from vllm_specflash.train.recipe import RecipeOptions, train_draft
from vllm_specflash.train.shape import DraftOptions, layers_of, read_draft
from vllm_specflash.train.target import Sample, Target

RECIPE = RecipeOptions(
    max_steps=4, batch_size=2, learning_rate=3e-3, warmup_steps=2, evaluate_every=4, held_out_share=0.3, bf16=False
)
SHAPE = DraftOptions(semi_ar_width=3, num_latents=4, head_expansion=1, draft_vocab_size=0)


def test_states_of_layers_are_their_inputs(llama, llama_answers):
    target = Target(llama.path, torch.float32, [0, 1])
    sample = target.sample(llama_answers[0], 4096)
    found = target.hidden_states([sample])[0]
    assert found.shape == (len(sample), 3 * 128) and target.feature_size == 3 * 128
    torch.testing.assert_close(found[:, :128], llama.hidden_states([sample])[0])
    # The first layer reads the embeddings.
    torch.testing.assert_close(found[:, 128:256], target.embedding[sample.input_ids])


def test_a_draft_of_several_layers_trains_and_is_read_again(llama, llama_answers, tmp_path):
    AnswerFolder(tmp_path / "answers").append(llama_answers)
    shape, features = replace(SHAPE, target_layers="0,1"), tmp_path / "features"
    recipe = replace(RECIPE, features=features)
    train_draft(llama.path, [tmp_path / "answers"], tmp_path / "draft", shape, LossOptions(), recipe)
    draft = read_draft(tmp_path / "draft", llama)
    assert draft.config.target_layers == [0, 1] and draft.fc.in_features == 4 * 128
    # Who has the features of three layers has those of one, and not the other way round.
    train_draft(llama.path, [tmp_path / "answers"], tmp_path / "one", SHAPE, LossOptions(), recipe)
    assert read_draft(tmp_path / "one", llama).fc.in_features == 2 * 128
    alone = replace(RECIPE, features=tmp_path / "alone")
    train_draft(llama.path, [tmp_path / "answers"], tmp_path / "again", SHAPE, LossOptions(), alone)
    weights = [read_draft(tmp_path / name, llama).state_dict() for name in ("one", "again")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(SpecFlashError, match="holds features of .*, not of .*layer0-layer1"):
        train_draft(llama.path, [tmp_path / "answers"], tmp_path / "other", shape, LossOptions(), alone)
    with pytest.raises(SpecFlashError, match="takes numbers from 0 to 1"):
        layers_of("2", 2)


@pytest.mark.parametrize("layers", ["", "1"])
def test_a_compressor_that_reads_embeddings_trains_on_the_projectors(llava, greedy_answer, tmp_path, layers):
    """What it is handed is what the projector gave the target, beside other layers too."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "seen.png")
    texts = [f"what is this {word}? " for word in ("red", "blue", "green", "big", "small", "old", "new", "far")]
    picture = {"type": "image", "path": str(tmp_path / "seen.png")}
    turns = [{"role": "user", "content": [picture, {"type": "text", "text": text}]} for text in texts]
    answers = [greedy_answer(llava, Prompt(str(n), "scenes", [turn]), 12) for n, turn in enumerate(turns)]
    AnswerFolder(tmp_path / "answers").append(answers)
    shape = replace(SHAPE, compressor="placed", visual_features="embeddings", latent_positions=16, target_layers=layers)
    recipe = replace(RECIPE, features=tmp_path / "features")
    train_draft(llava.path, [tmp_path / "answers"], tmp_path / "draft", shape, LossOptions(), recipe)
    draft = read_draft(tmp_path / "draft", llava)
    assert draft.config.visual_features == "embeddings" and draft.config.trained_layers == ([1, 0] if layers else [0])
    target = Target(llava.path, torch.float32, draft.config.trained_layers)
    sample = target.sample(answers[0], 4096)
    ((start, length),) = sample.spans
    features = target.model.get_image_features(**target.family.batch_pixels([sample.pixels])).pooler_output[0]
    hidden = target.hidden_states([sample])
    torch.testing.assert_close(hidden[0, start : start + length, -128:], features)
    batch = collate([sample], Pooling(4), 3)
    seen = compressed_inputs(draft, batch, hidden, target.embedding)
    torch.testing.assert_close(seen, compressed_inputs(draft, batch, hidden, target.embedding, features))
    blind = hidden.clone()
    blind[..., -128:] = 0
    assert not torch.allclose(seen, compressed_inputs(draft, batch, blind, target.embedding))


def test_other_layers_count_whatever_their_size_and_need_not_be_there_in_later_rounds():
    torch.manual_seed(0)
    draft = SpecFlashDraft(SpecFlashConfig(
        hidden_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=8, target_vocab_size=40, target_layers=[0, 3],
    ))  # fmt: skip
    embeddings, hidden = torch.randn(5, 16), torch.randn(5, 48)
    louder = torch.cat((hidden[:, :16], 100 * hidden[:, 16:]), 1)
    torch.testing.assert_close(draft.fuse(embeddings, louder), draft.fuse(embeddings, hidden), rtol=1e-3, atol=1e-3)
    other = torch.cat((hidden[:, :16], hidden[:, 16:].flip(1)), 1)
    assert not torch.allclose(draft.fuse(embeddings, other), draft.fuse(embeddings, hidden), atol=1e-3)
    assert draft.fuse(embeddings, hidden[:, :16]).shape == (5, 16)


def test_steps_begin_where_the_draft_was_wrong():
    """Two answers of 5 and 3 positions: after a accepted tokens, the step after next begins a + 1 later."""
    right = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 0], [1, 1, 1], [1, 1, 1]]).bool()
    places = torch.tensor([10, 11, 12, 13, 14, 30, 31, 32])
    assert step_starts(right, places).tolist() == [True, False, False, True, True, True, True, False]


def test_positions_where_steps_begin_weigh_more():
    draft = SpecFlashDraft(SpecFlashConfig(
        hidden_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=8, target_vocab_size=40, semi_ar_width=3,
    ))  # fmt: skip
    # After the draft: how many weights it draws is none of this test's business.
    torch.manual_seed(0)
    batch = collate([Sample("s", "chat", torch.randint(0, 40, (14,)), 5, [], {}, True)], Pooling(4), 3)
    hidden, lm_head = torch.randn(1, 14, 16), torch.randn(40, 16)
    # Right everywhere but at the first position's first offset: steps begin at rows 0, 1, 5, 9 of nine.
    predicted = hidden[0][batch.targets()]
    predicted[0, 0] = -predicted[0, 0]
    options = LossOptions(negatives=0, smooth_l1=0.0)
    even = draft_losses(draft, batch, predicted, hidden, lm_head, None, options)
    weighted = draft_losses(draft, batch, predicted, hidden, lm_head, None, replace(options, on_policy=4.0))
    # The first offset alone holds a mistake; the others are right at every position, whatever weighs more.
    assert weighted.cross_entropy[0] > 1.5 * even.cross_entropy[0]
    assert Counter((weighted.accuracy > 0.8).tolist())[True] == 3
