"""latent_compress: pooled latents are softmax(A F^T) F however the span was cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.triton_kernels.latent_compress import (
    CompressState,
    latent_compress,
    latent_compress_torch,
    latent_compress_triton,
)


def oracle(queries, hidden):
    """softmax(A F^T) F of one whole span, float64."""
    features = hidden.double()
    return torch.softmax(queries.double() @ features.T, -1) @ features


def spans(lengths, size, dtype, scale=1.0):
    cu = torch.tensor([0, *lengths]).cumsum(0).int()
    return (torch.randn(sum(lengths), size) * scale).to(dtype), cu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[1], [64], [3, 0, 1, 200], [0, 0], []])
def test_one_chunk_is_softmax_pooling(lengths, dtype):
    hidden, cu = spans(lengths, 48, dtype)
    queries = torch.randn(5, 48)
    latents = latent_compress(queries, hidden, cu, CompressState.empty(len(lengths), 5, 48)).finish()
    for span, length in enumerate(lengths):
        rows = hidden[cu[span] : cu[span + 1]]
        expected = oracle(queries, rows) if length else torch.zeros(5, 48)
        torch.testing.assert_close(latents[span].double(), expected.double(), atol=2e-5, rtol=2e-5)


@given(cuts=st.lists(st.integers(0, 90), max_size=6), scale=st.sampled_from([0.1, 1.0, 30.0]))
@settings(max_examples=40)
def test_chunking_changes_nothing(cuts, scale):
    hidden, _ = spans([90], 32, torch.float32, scale)
    queries = torch.randn(4, 32)
    state = CompressState.empty(1, 4, 32)
    edges = [0, *sorted(cuts), 90]
    for start, end in zip(edges, edges[1:]):
        state = latent_compress(queries, hidden[start:end], torch.tensor([0, end - start], dtype=torch.int32), state)
    torch.testing.assert_close(state.finish()[0].double(), oracle(queries, hidden), atol=1e-4 * scale, rtol=1e-4)


def test_untouched_span_finishes_to_zeros():
    assert torch.equal(CompressState.empty(2, 3, 8).finish(), torch.zeros(2, 3, 8))


def test_given_state_is_left_alone():
    hidden, cu = spans([4], 8, torch.float32)
    state = CompressState.empty(1, 3, 8)
    latent_compress(torch.randn(3, 8), hidden, cu, state)
    assert state.max.eq(-torch.inf).all() and not state.sum.any() and not state.acc.any()


def test_nan_stays_in_its_span():
    hidden, cu = spans([4, 4], 8, torch.float32)
    hidden[1] = torch.nan
    latents = latent_compress(torch.randn(3, 8), hidden, cu, CompressState.empty(2, 3, 8)).finish()
    assert latents[0].isnan().any() and latents[1].isfinite().all()


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "lengths, latents, size",
    [([1], 1, 16), ([64], 16, 128), ([3, 0, 1, 70, 33], 5, 72), ([32, 64], 64, 64), ([20], 80, 130), ([0, 0], 4, 32)],
)
def test_kernel_agrees_with_torch_path(lengths, latents, size, dtype, on_device):
    queries = torch.randn(latents, size)
    state = expected = CompressState.empty(len(lengths), latents, size)
    state = CompressState(*map(on_device, state))
    for _ in range(2):  # the second chunk resumes from the first one's state
        hidden, cu = spans(lengths, size, dtype)
        expected = latent_compress_torch(queries, hidden, cu, expected)
        state = latent_compress_triton(on_device(queries), on_device(hidden), on_device(cu), state)
    for part, reference in zip(state, expected):
        torch.testing.assert_close(part.cpu(), reference, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state.finish().cpu(), expected.finish(), atol=1e-4, rtol=1e-4)


@pytest.mark.kernel
def test_kernel_keeps_nan_in_its_span(on_device):
    hidden, cu = spans([40, 40], 32, torch.float32)
    hidden[39] = torch.nan
    state = CompressState(*map(on_device, CompressState.empty(2, 3, 32)))
    latents = latent_compress_triton(on_device(torch.randn(3, 32)), on_device(hidden), on_device(cu), state).finish()
    assert latents[0].isnan().any() and latents[1].isfinite().all()
