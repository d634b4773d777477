"""Latents do not depend on how the prefill was chunked."""

import pytest
import torch

from vllm_specflash.draft.compressor import LatentCompressor, PlacedCompressor
from vllm_specflash.engine.latents import SpanChunk, SpanPooler

START, LENGTH, LATENTS, SIZE = 5, 23, 4, 16


@pytest.fixture
def features():
    return torch.randn(LENGTH, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def pooler():
    compressor = LatentCompressor(LATENTS, SIZE)
    compressor.queries.data = torch.randn(LATENTS, SIZE, generator=torch.Generator().manual_seed(1))
    return SpanPooler(compressor.requires_grad_(False))


def feed(pooler, features, cuts, request="r"):
    """Feed the span in chunks ending at the given cuts; returns what the last one finished."""
    finished, first = [], 0
    for cut in [*cuts, LENGTH]:
        chunk = SpanChunk(request, 0, 0, START + first, START + cut, 0, START, START + LENGTH, LATENTS)
        finished = pooler.pool([chunk], features[first:cut])
        first = cut
    return finished


def one_shot(pooler, features):
    return torch.softmax(pooler.compressor.queries @ features.T, dim=-1) @ features


@pytest.mark.parametrize("cuts", [[], [1], [22], [7, 8, 20], list(range(1, 23))])
def test_latents_survive_chunked_prefill(pooler, features, cuts):
    ((_, began, latents),) = feed(pooler, features, cuts)
    assert began == START
    torch.testing.assert_close(latents, one_shot(pooler, features), rtol=1e-5, atol=1e-5)
    assert not pooler._partial


def test_a_restarted_request_pools_anew(pooler, features):
    pooler.pool([SpanChunk("r", 0, 0, START, START + 9, 0, START, START + LENGTH, LATENTS)], features[:9] + 100)
    ((_, _, latents),) = feed(pooler, features, [4])
    torch.testing.assert_close(latents, one_shot(pooler, features), rtol=1e-5, atol=1e-5)


def test_a_span_begun_by_the_prefix_cache_pools_what_was_computed(pooler, features):
    chunk = SpanChunk("r", 0, 0, START + 10, START + LENGTH, 0, START, START + LENGTH, LATENTS)
    ((_, began, latents),) = pooler.pool([chunk], features[10:])
    assert began == START + 10
    torch.testing.assert_close(latents, one_shot(pooler, features[10:]), rtol=1e-5, atol=1e-5)


def test_requests_do_not_mix_and_ended_ones_are_forgotten(pooler, features):
    pooler.pool([SpanChunk("gone", 0, 0, START, START + 9, 0, START, START + LENGTH, LATENTS)], features[:9] * 3)
    ((_, _, latents),) = feed(pooler, features, [11])
    torch.testing.assert_close(latents, one_shot(pooler, features), rtol=1e-5, atol=1e-5)
    pooler.forget("gone")
    assert not pooler._partial


@pytest.mark.parametrize("cuts", [[], [1], [7, 8, 20]])
def test_a_compressor_that_knows_places_does_not_care_for_chunks_either(features, cuts):
    torch.manual_seed(2)
    compressor = PlacedCompressor(LATENTS, SIZE, positions=9, heads=2, features="states", eps=1e-5).requires_grad_(False)
    compressor.initialise(0.5)
    compressor.own.normal_()
    ((_, _, latents),) = feed(SpanPooler(compressor), features, cuts)
    torch.testing.assert_close(latents, compressor(features), rtol=1e-4, atol=1e-5)


def test_a_draft_that_pictures_are_hidden_from_pools_nothing(features):
    pooler = SpanPooler(LatentCompressor(0, SIZE))
    assert pooler.pool([SpanChunk("r", 0, 0, START, START + LENGTH, 0, START, START + LENGTH, 0)], features) == []


def test_embeddings_are_read_as_wide_as_the_states(features):
    """Some targets keep what deeper layers add to pictures beside what the first one reads."""
    compressor = PlacedCompressor(LATENTS, SIZE, LENGTH, 1, "embeddings", 1e-6).requires_grad_(False)
    compressor.initialise(1.0)
    inputs = torch.randn(LENGTH, 3 * SIZE, generator=torch.Generator().manual_seed(2))
    chunk = SpanChunk("r", 0, 0, START, START + LENGTH, 0, START, START + LENGTH, LATENTS)
    ((_, _, latents),) = SpanPooler(compressor).pool([chunk], features, inputs)
    torch.testing.assert_close(latents, compressor(features, inputs[:, :SIZE]), rtol=1e-5, atol=1e-5)
