"""The compressor that knows places: its windows, its chunks, and what it is fed."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft
from vllm_specflash.draft.compressor import Pooling
from vllm_specflash.train.batch import layout
from vllm_specflash.train.target import Sample
from vllm_specflash.triton_kernels.latent_compress import CompressState, latent_compress

SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "target_vocab_size": 50}


def _compressor(features: str = "both", **fields):
    torch.manual_seed(0)
    config = SpecFlashConfig(**SMALL, compressor="placed", visual_features=features, **{"latent_positions": 16, **fields})
    compressor = SpecFlashDraft(config).compressor
    torch.nn.init.normal_(compressor.queries[:, :-16], std=0.3)
    return compressor.requires_grad_(False)


@pytest.mark.parametrize("features", ["states", "embeddings", "both"])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("length", [16, 23])
def test_latents_do_not_depend_on_how_the_span_was_cut(features, heads, length):
    compressor = _compressor(features, num_latents=4, latent_heads=heads)
    hidden, embeddings = torch.randn(length, 32) * 3, torch.randn(length, 32) * 0.05
    state = CompressState.empty(1, *compressor.queries.shape)
    for first, stop in ((0, 5), (5, 6), (6, length)):
        rows = compressor.rows(hidden[first:stop], first, length, embeddings[first:stop])
        state = latent_compress(compressor.queries, rows, torch.tensor([0, stop - first], dtype=torch.int32), state)
    torch.testing.assert_close(compressor.latents(state.finish()[0]), compressor(hidden, embeddings), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("heads", [1, 3])
def test_a_latents_look_is_the_mean_over_its_heads(heads):
    compressor = _compressor("states", num_latents=4, latent_heads=heads)
    rows = compressor.rows(torch.randn(23, 32), 0, 23)
    before = compressor.looks(rows)
    torch.testing.assert_close(before.sum(-1), torch.ones(4))
    compressor.queries[2 * heads].zero_()
    after = compressor.looks(rows)
    # One of latent 2's queries now weighs every row alike; no other latent has changed.
    assert [not torch.equal(*pair) for pair in zip(before, after)] == [False, False, True, False]
    by_query = torch.softmax(compressor.queries @ rows.T, dim=-1)
    torch.testing.assert_close(after[2], by_query[2 * heads : 3 * heads].mean(0))


@pytest.mark.parametrize("compressor", ["paper", "placed"])
def test_a_span_shorter_than_the_latents_has_as_many_looks_as_rows(compressor):
    config = SpecFlashConfig(**SMALL, compressor=compressor, num_latents=8, latent_positions=16)
    short = SpecFlashDraft(config).compressor.requires_grad_(False)
    hidden = torch.randn(5, 32)
    assert short.looks(short.rows(hidden, 0, 5)).shape == (5, 5) and short(hidden).shape == (5, 32)


def test_latents_begin_as_the_cells_of_a_square():
    """M = 4 over 4 x 4 positions: each latent looks mostly at its own quarter."""
    compressor = _compressor("states", num_latents=4)
    bias = compressor.queries[:, -16:].softmax(-1).view(4, 2, 2, 2, 2).sum((2, 4)).flatten(1)
    assert (bias.diagonal() > 0.6).all() and bias.argmax(-1).tolist() == [0, 1, 2, 3]


def test_latents_begin_as_pieces_of_a_span_that_is_no_square():
    bias = _compressor("states", num_latents=2).queries[:, -16:].softmax(-1)
    assert bias[0, :8].sum() > 0.7 and bias[1, 8:].sum() > 0.7


def test_latents_of_a_piece_begin_as_its_stretches_in_order():
    """M = 4 over 16 positions of one line of a picture: no square, whatever the numbers are."""
    bias = _compressor("states", num_latents=4, pool_length=16).queries[:, -16:].softmax(-1).view(4, 4, 4).sum(-1)
    assert (bias.diagonal() > 0.6).all()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 90)), max_size=4), st.integers(1, 40))
def test_a_long_span_is_cut_into_the_fewest_pieces_of_like_length(gaps_and_lengths, longest):
    spans, at = [], 0
    for gap, length in gaps_and_lengths:
        spans.append((at + gap, length))
        at += gap + length
    pieces = Pooling(4, longest).cut(spans)
    assert [p for start, n in pieces for p in range(start, start + n)] == [p for start, n in spans for p in range(start, start + n)]
    for start, length in spans:
        of_span = [n for begin, n in pieces if start <= begin < start + length]
        assert len(of_span) == -(-length // longest) and max(of_span) <= longest and max(of_span) - min(of_span) <= 1
    assert Pooling(4).cut(spans) == Pooling(0, longest).cut(spans) == spans


def test_a_place_is_the_same_share_of_a_span_of_any_length():
    """Twice as long a span: positions 2n and 2n + 1 lie around where n lies in the shorter one."""
    compressor = _compressor("states")
    device = torch.device("cpu")
    short, long = (compressor._places(0, length, length, device) for length in (16, 32))
    assert torch.equal(short, torch.eye(16))
    torch.testing.assert_close(long.sum(-1), torch.ones(32))
    bins = torch.arange(16.0)
    torch.testing.assert_close((long @ bins).view(16, 2)[1:-1].mean(-1), bins[1:-1])
    torch.testing.assert_close(compressor._places(20, 7, 32, device), long[20:27])


def test_what_is_pooled_does_not_depend_on_the_size_of_the_features():
    compressor = _compressor("both", num_latents=4)
    hidden, embeddings = torch.randn(16, 32), torch.randn(16, 32)
    torch.testing.assert_close(compressor(100 * hidden, embeddings * 0.1), compressor(hidden, embeddings), atol=1e-3, rtol=1e-3)


def test_an_order_of_positions_matters_to_it_and_not_to_the_papers_form():
    hidden = torch.randn(16, 32)
    papers = SpecFlashDraft(SpecFlashConfig(**SMALL, num_latents=4)).compressor
    torch.testing.assert_close(papers(hidden.flip(0)), papers(hidden))
    placed = _compressor("states", num_latents=4)
    assert (placed(hidden.flip(0)) - placed(hidden)).abs().max() > 0.01


def test_without_latents_a_span_leaves_no_row():
    compressor = SpecFlashDraft(SpecFlashConfig(**SMALL, num_latents=0)).compressor
    assert compressor(torch.randn(16, 32)).shape == (0, 32) and compressor.num_rows(16) == 0


def test_what_is_not_compressed_is_laid_out_like_text():
    config = SpecFlashConfig(**SMALL, compressor="none", visual_features="both")
    assert config.pooling is None and not config.pools_embeddings
    assert not SpecFlashDraft(config).compressor.queries.numel()
    sample = Sample("one", "chat", torch.arange(12), 8, [(2, 4)], {}, True)
    assert layout(sample, config.pooling) == (list(range(11)), list(range(11)), [])


def test_a_checkpoint_without_the_new_fields_is_the_papers_form(tmp_path):
    draft = SpecFlashDraft(SpecFlashConfig(**SMALL, num_latents=4))
    draft.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    for name in ("compressor", "visual_features", "latent_positions", "latent_heads", "pool_length"):
        del fields[name]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    loaded = SpecFlashDraft.from_pretrained(tmp_path)
    assert torch.equal(loaded.compressor.queries, draft.compressor.queries)
    assert set(loaded.state_dict()) == set(draft.state_dict()) and loaded.config.compressor == "paper"
    assert loaded.config.pooling == Pooling(4)


def test_what_was_saved_is_what_is_loaded(tmp_path):
    draft = SpecFlashDraft(SpecFlashConfig(**SMALL, compressor="placed", num_latents=4, latent_positions=16, latent_heads=2))
    for parameter in draft.parameters():
        torch.nn.init.normal_(parameter)
    draft.save_pretrained(tmp_path)
    loaded = SpecFlashDraft.from_pretrained(tmp_path).state_dict()
    assert {name for name in loaded if name.startswith("compressor.")} == {
        f"compressor.{name}" for name in ("queries", "own", "projection.weight", "projection.bias")
    }
    assert all(torch.equal(value, loaded[name]) for name, value in draft.state_dict().items())
