"""Offset i at position t is trained against h_{t+i}, and sees nothing later than h_t and x_{t+1}."""

import copy

import pytest
import torch

from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft
from vllm_specflash.draft.compressor import Pooling
from vllm_specflash.train.batch import collate, layout
from vllm_specflash.train.forward import answer_states, compressed_inputs
from vllm_specflash.train.loss import LossOptions, draft_losses, previous_tokens
from vllm_specflash.train.target import Sample

WIDTH, SIZE, VOCABULARY = 3, 16, 40
OPTIONS = LossOptions(negatives=0, noise=0.0, offset_decay=1.0)


def _sample(length: int, start: int, spans=()) -> Sample:
    ids = torch.randint(0, VOCABULARY, (length,), generator=torch.Generator().manual_seed(length))
    return Sample("s", "chat", ids, start, list(spans), {}, True)


@pytest.fixture
def draft() -> SpecFlashDraft:
    torch.manual_seed(0)
    return SpecFlashDraft(
        SpecFlashConfig(
            hidden_size=SIZE, num_attention_heads=2, num_key_value_heads=1, head_dim=8, semi_ar_width=WIDTH,
            num_latents=4, target_vocab_size=VOCABULARY, initializer_range=0.2,
        )
    )  # fmt: skip


def test_each_offset_has_its_own_target(draft):
    """Predictions that copy h_{t+i} exactly have no loss; the same predictions one offset off do."""
    samples = [_sample(14, 5), _sample(11, 4)]
    batch = collate(samples, Pooling(4), WIDTH)
    torch.manual_seed(1)
    hidden, lm_head = torch.randn(2, 14, SIZE), torch.randn(VOCABULARY, SIZE)
    flat = hidden.flatten(0, 1)
    right = torch.stack([flat[batch.answer_from + i] for i in (1, 2, 3)], dim=1)
    losses = draft_losses(draft, batch, right, hidden, lm_head, None, OPTIONS)
    assert losses.smooth_l1.tolist() == [0, 0, 0]
    assert losses.accuracy.tolist() == [1, 1, 1]
    # The easy mistake: every offset trained on the same target.
    same = flat[batch.answer_from + 1][:, None].expand(-1, WIDTH, -1)
    losses = draft_losses(draft, batch, same, hidden, lm_head, None, OPTIONS)
    assert losses.smooth_l1[0] == 0 and losses.smooth_l1[1:].min() > 0.5
    late = torch.stack([flat[batch.answer_from + i - 1] for i in (1, 2, 3)], dim=1)
    assert draft_losses(draft, batch, late, hidden, lm_head, None, OPTIONS).smooth_l1.min() > 0.5


def test_gradient_of_an_offset_comes_from_its_own_hidden_state(draft):
    """Moving h_{t+i} moves the loss of offset i at t, and of no other offset at t."""
    batch = collate([_sample(12, 9)], Pooling(4), WIDTH)
    assert batch.answer_from.tolist() == [8, 9]
    assert batch.valid.tolist() == [[True, True, False], [True, False, False]]
    assert batch.targets()[0, :2].tolist() == [9, 10]
    hidden, lm_head = torch.randn(1, 12, SIZE), torch.randn(VOCABULARY, SIZE)
    predicted = torch.randn(2, WIDTH, SIZE)
    before = draft_losses(draft, batch, predicted, hidden, lm_head, None, OPTIONS)
    hidden[0, 10] += 5
    after = draft_losses(draft, batch, predicted, hidden, lm_head, None, OPTIONS)
    # h_10 is offset 2 of t = 8 and offset 1 of t = 9; offset 3 has no target in so short an answer.
    changed = (after.smooth_l1 - before.smooth_l1).abs() > 1e-3
    assert changed.tolist() == [True, True, False]


def test_only_answer_positions_are_trained():
    batch = collate([_sample(20, 12)], Pooling(4), WIDTH)
    # From the position whose next token is the answer's first, to the last with a token left to guess.
    assert batch.answer_from.tolist() == list(range(11, 18))


def test_a_prediction_sees_nothing_after_its_position(draft):
    sample, embedding = _sample(14, 5), torch.randn(VOCABULARY, SIZE)
    batch, hidden = collate([sample], Pooling(4), WIDTH), torch.randn(1, 14, SIZE)
    states = answer_states(draft, batch, hidden, embedding)
    later = hidden.clone()
    later[0, 9:] += 1
    changed = (answer_states(draft, batch, later, embedding) - states).abs().amax((1, 2)) > 0
    assert changed.tolist() == [t >= 9 for t in batch.answer_from.tolist()]


def test_text_rows_pair_a_hidden_state_with_the_next_token(draft):
    sample, embedding = _sample(8, 3), torch.randn(VOCABULARY, SIZE)
    batch, hidden = collate([sample], Pooling(4), WIDTH), torch.randn(1, 8, SIZE)
    u = compressed_inputs(draft, batch, hidden, embedding)
    torch.testing.assert_close(u[0], draft.fuse(embedding[sample.input_ids[1:]], hidden[0, :-1]))


def test_compressed_sequence_of_text_and_spans(draft):
    """Two touching spans of 6 and 3 between text: 4 and 3 latents, draft positions without gaps."""
    sample = _sample(16, 12, [(2, 6), (8, 3)])
    positions, rows, spans = layout(sample, Pooling(4))
    assert positions == [0, 1, 11, 12, 13, 14]
    assert rows == [0, 1, 9, 10, 11, 12]
    assert spans == [(2, 6, 2), (8, 3, 6)]
    embedding, hidden = torch.randn(VOCABULARY, SIZE), torch.randn(1, 16, SIZE)
    u = compressed_inputs(draft, collate([sample], Pooling(4), WIDTH), hidden, embedding)
    assert u.shape == (1, 13, SIZE)
    torch.testing.assert_close(u[0, 2:6], draft.compressor(hidden[0, 2:8]))
    torch.testing.assert_close(u[0, 6:9], draft.compressor(hidden[0, 8:11]))
    torch.testing.assert_close(u[0, 9], draft.fuse(embedding[sample.input_ids[12]], hidden[0, 11]))


def test_pieces_of_a_picture_are_pooled_like_spans_of_their_own(draft):
    """A span of 11 in pieces of at most 4, two latents each, which together have 2, 2 and 2 of its draft positions."""
    sample = _sample(16, 14, [(2, 11)])
    pooling = Pooling(2, 4)
    positions, rows, spans = layout(sample, pooling)
    assert (positions, rows) == ([0, 1, 13, 14], [0, 1, 8, 9])
    assert spans == [(2, 3, 2), (5, 4, 4), (9, 4, 6)]
    batch = collate([sample], pooling, WIDTH)
    assert batch.draft_length == 10
    draft = copy.deepcopy(draft)
    draft.compressor.queries = torch.nn.Parameter(draft.compressor.queries[:2].clone())
    hidden = torch.randn(1, 16, SIZE)
    u = compressed_inputs(draft, batch, hidden, torch.randn(VOCABULARY, SIZE))
    pooled = [draft.compressor(hidden[0, start : start + length]) for start, length in ((2, 3), (5, 4), (9, 4))]
    torch.testing.assert_close(u[0, 2:8], torch.cat(pooled))


def test_transition_is_fed_the_token_before_the_one_that_is_guessed():
    sample = _sample(12, 5)
    batch = collate([sample], Pooling(4), WIDTH)
    previous = previous_tokens(batch, None)
    t = int(batch.answer_from[0])
    # The first offset's previous token x_{t+1} is an input already; offset 2 guesses x_{t+3} after x_{t+2}.
    assert previous[0].tolist() == [-1, int(sample.input_ids[t + 2]), int(sample.input_ids[t + 3])]
    assert previous[-1].tolist() == [-1, -1, -1]
