"""draft_attention: each query attends to exactly the draft positions and in-memory rows it may see."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.engine.spans import SpanBatch, Spans
from vllm_specflash.triton_kernels import draft_attention as module
from vllm_specflash.triton_kernels._addresses import addresses
from vllm_specflash.triton_kernels.draft_attention import (
    SpanTable,
    draft_attention,
    draft_attention_torch,
    draft_attention_triton,
    target_positions,
)

LATENTS = 4
# What entries of a block table hold beyond a request's last block.
NO_BLOCK = -(1 << 20)


def span_table(spans):
    """spans: per request a list of (offset, length) -> (SpanTable, SpanBatch)."""
    batch = SpanBatch([Spans.of(ranges, LATENTS) for ranges in spans])
    return SpanTable(torch.from_numpy(batch.compressed_start).int(), torch.from_numpy(batch.hidden).int()), batch


def problem(
    visible, spans=None, heads=6, kv_heads=2, head_dim=16, block_size=16, extra=0, dtype=torch.float32, spare_blocks=2
):
    """visible: draft positions each request sees. Slots that no request sees hold NaN, as do in-memory rows of none."""
    spans = spans or [[] for _ in visible]
    table, batch = span_table(spans)
    positions = [batch.visible_positions(np.array([r]), n)[0] for r, n in enumerate(visible)]
    owned = [-(-int(p.max(initial=-1) + 1) // block_size) for p in positions]
    pages = torch.randperm(sum(owned) + 1)
    block_table = torch.full((len(visible), max(1, *owned) + spare_blocks), NO_BLOCK, dtype=torch.int32)
    cache = torch.full((len(pages) * block_size, 2, kv_heads, head_dim), torch.nan, dtype=dtype)
    first, slots = 0, []
    for request, blocks in enumerate(owned):
        block_table[request, :blocks] = pages[first : first + blocks]
        first += blocks
        at = torch.from_numpy(positions[request])
        slots.append(block_table[request, at // block_size].long() * block_size + at % block_size)
        cache[slots[-1]] = torch.randn(len(at), 2, kv_heads, head_dim).to(dtype)
    args = dict(
        query=torch.randn(len(visible), heads, head_dim).to(dtype),
        key_cache=cache[:, 0],
        value_cache=cache[:, 1],
        block_table=block_table,
        block_size=block_size,
        visible=torch.tensor(visible, dtype=torch.int32),
        spans=table,
        scale=head_dim**-0.5,
    )
    if extra:
        rows = torch.randn(2, len(visible), extra, kv_heads, head_dim).to(dtype)
        rows[:, args["visible"] == 0] = torch.nan
        args["extra_key"], args["extra_value"] = rows
    return args, slots


def oracle(args, slots):
    """Every request alone over the explicit list of slots it sees, float64."""
    query = args["query"].double()
    out, group = torch.zeros_like(query), query.shape[1] // args["key_cache"].shape[1]
    for request, seen in enumerate(slots):
        if not len(seen):
            continue
        key, value = (args[name][seen].double() for name in ("key_cache", "value_cache"))
        if "extra_key" in args:
            key, value = (
                torch.cat((rows, args[name][request].double()))
                for rows, name in ((key, "extra_key"), (value, "extra_value"))
            )
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        weights = (torch.einsum("hd,lhd->hl", query[request], key) * args["scale"]).softmax(-1)
        out[request] = torch.einsum("hl,lhd->hd", weights, value)
    return out


BATCHES = {
    "one_position": ([1], None, {}),
    "long": ([200], None, {}),
    "nothing": ([0], None, {}),
    "ragged": ([5, 64, 130, 0], None, {}),
    "hidden": ([30, 40, 3, 70], [[(2, 20)], [(0, 9), (12, 30), (50, 6)], [(1, 50)], []], {}),
    "span_no_longer_than_latents": ([20], [[(5, 3), (8, 4)]], {}),
    "adjacent_spans_and_big_blocks": ([60], [[(3, 40), (43, 70)]], dict(block_size=128)),
    "odd_group": ([20, 2], [[(1, 8)], []], dict(heads=9, kv_heads=3, head_dim=24)),
    "odd_block_size": ([90, 17], [[(10, 50)], []], dict(block_size=48)),
    "no_grouping": ([33, 64], None, dict(heads=4, kv_heads=4, head_dim=64)),
    "one_wide_group": ([10, 70], None, dict(heads=40, kv_heads=1, head_dim=128)),
    "many_spans": ([150], [[(6 * k, 5) for k in range(20)]], {}),
}


@pytest.fixture(params=BATCHES)
def batch(request):
    visible, spans, options = BATCHES[request.param]
    return lambda **more: problem(visible, spans, **options, **more)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("extra", [0, 5])
def test_torch_path_against_float64(batch, extra, dtype, close):
    args, slots = batch(extra=extra, dtype=dtype)
    close(draft_attention(**args), oracle(args, slots))
    close(draft_attention(**args, max_visible=max(1, int(args["visible"].max()))), oracle(args, slots))


def test_a_batch_too_large_for_the_cpu_caches_is_gathered_in_pieces(close, monkeypatch):
    args, slots = problem([300, 20, 0, 150, 7], extra=2)
    monkeypatch.setattr(module, "GATHERED_BYTES", 2 * 300 * 2 * 16 * 4)
    gathered, index_select = [], torch.Tensor.index_select
    monkeypatch.setattr(
        torch.Tensor, "index_select", lambda *given: gathered.append(len(given[2])) or index_select(*given)
    )
    close(draft_attention_torch(**args, max_visible=300), oracle(args, slots))
    assert gathered == [600, 600, 600, 600, 300, 300]


@st.composite
def batches(draw, most=40):
    """Requests of any length with spans anywhere, some of which begin beyond what is visible."""
    visible = draw(st.lists(st.integers(0, most), min_size=1, max_size=4))
    gaps = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 20)), max_size=3)
    spans = []
    for _ in visible:
        at, ranges = 0, []
        for gap, length in draw(gaps):
            ranges.append((at + gap, length))
            at += gap + length
        spans.append(ranges)
    return visible, spans


@given(given_batch=batches(), extra=st.sampled_from([0, 3]))
@settings(max_examples=40)
def test_any_batch_against_float64(given_batch, extra, close):
    args, slots = problem(*given_batch, extra=extra)
    close(draft_attention(**args), oracle(args, slots))


@given(batches(most=60))
@settings(max_examples=40)
def test_positions_are_those_of_the_engines_spans(given_batch):
    _, spans = given_batch
    table, batch = span_table(spans)
    expected = batch.visible_positions(np.arange(len(spans)), 60)
    mapped = target_positions(torch.arange(60, dtype=torch.int32).expand(len(spans), -1), table)
    np.testing.assert_array_equal(mapped.numpy(), expected)


def test_nan_of_one_request_reaches_no_other(close):
    args, slots = problem([30, 20, 40], extra=4)
    args["extra_key"][0], args["value_cache"][slots[0]] = torch.nan, torch.nan
    out = draft_attention(**args)
    assert out[0].isnan().all()
    close(out[1:], oracle(args, slots)[1:])


def test_no_table_is_read_beyond_its_end():
    tables, none = np.array([[7, 99]], np.int32), np.zeros((1, 0), np.int32)
    slots, seen = np.zeros((1, 20), np.int64), np.zeros((1, 20), bool)
    assert addresses(np.array([20], np.int32), tables[:, :1], 16, none, none, slots, seen)
    assert seen.all() and (slots // 16 == 7).all()
    assert not addresses(np.array([-3], np.int32), tables, 16, none, none, slots, seen)
    assert not seen.any() and not slots.any()


@pytest.mark.parametrize("extra", [0, 5])
def test_no_value_is_read_on_the_host(extra, faked):
    args, _ = problem([30, 0, 12], [[(2, 20)], [], []], extra=extra)
    with faked(args, "cuda") as fake:
        out = draft_attention(**fake)
    assert out.shape == (3, 6, 16) and out.device.type == "cuda"


@pytest.mark.kernel
@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize("extra", [0, 5])
def test_kernel_agrees_with_torch_path(batch, extra, num_splits, on_device, close):
    args, _ = batch(extra=extra)
    close(draft_attention_triton(**on_device(args), num_splits=num_splits), draft_attention_torch(**args))


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kernel_in_half_precision(dtype, on_device, close):
    args, _ = problem([70, 300], [[(8, 90)], []], heads=4, kv_heads=2, head_dim=64, extra=3, dtype=dtype)
    close(draft_attention_triton(**on_device(args), num_splits=2), draft_attention_torch(**args))


@pytest.mark.kernel
@given(given_batch=batches(), num_splits=st.integers(1, 4))
@settings(max_examples=12)
def test_kernel_on_any_batch(on_device, close, given_batch, num_splits):
    args, _ = problem(*given_batch, extra=2)
    close(draft_attention_triton(**on_device(args), num_splits=num_splits), draft_attention_torch(**args))


@pytest.mark.kernel
@pytest.mark.parametrize("num_splits", [1, 2])
def test_kernel_isolates_nan(num_splits, on_device, close):
    args, slots = problem([30, 20, 40], extra=4)
    args["extra_key"][0], args["value_cache"][slots[0]] = torch.nan, torch.nan
    out = draft_attention_triton(**on_device(args), num_splits=num_splits)
    assert out[0].isnan().all()
    close(out[1:], oracle(args, slots)[1:])
