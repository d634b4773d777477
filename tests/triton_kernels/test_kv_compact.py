"""kv_compact: accepted rows end up where a chain would have put them, and nothing else moves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.triton_kernels.kv_compact import cache_table, kv_compact, kv_compact_torch, kv_compact_triton

LAYERS, BLOCK_SIZE, KV_HEADS, HEAD_DIM = 2, 4, 2, 8


def make_caches(num_blocks, layout, dtype, device="cpu"):
    """K and V of every layer, all elements different."""
    shape = {
        "nhd": (num_blocks, BLOCK_SIZE, KV_HEADS, HEAD_DIM),
        "hnd": (num_blocks, KV_HEADS, BLOCK_SIZE, HEAD_DIM),
        "dim_first": (num_blocks, KV_HEADS, HEAD_DIM, BLOCK_SIZE),  # how CPU engines hold keys
    }[layout]
    order = {"nhd": (0, 1, 2, 3), "hnd": (0, 2, 1, 3), "dim_first": (0, 3, 1, 2)}[layout]
    caches = torch.arange(2 * LAYERS * num_blocks * BLOCK_SIZE * KV_HEADS * HEAD_DIM, device=device)
    caches = caches.to(torch.int16).view(dtype) if dtype.itemsize == 2 else caches.to(dtype)
    return [cache.permute(order) for cache in caches.view(2 * LAYERS, *shape).clone()]


@st.composite
def moves(draw, requests=None):
    """Per request: the root's position and the accepted nodes, any ascending indices of a tree of up to 20 nodes."""
    count = draw(st.integers(1, 3)) if requests is None else requests
    bases = [draw(st.integers(0, 9)) for _ in range(count)]
    nodes = [sorted(draw(st.sets(st.integers(1, 19), max_size=6))) for _ in range(count)]
    return bases, nodes


def arguments(bases, nodes):
    width = 7
    per_request = 30 // BLOCK_SIZE + 1
    table = torch.randperm(len(bases) * per_request).view(len(bases), per_request).int()
    padded = torch.tensor([row + [-7] * (width - len(row)) for row in nodes]).int()
    return table, torch.tensor(bases).int(), padded, torch.tensor([len(row) for row in nodes]).int()


def expected(caches, table, bases, nodes):
    """From a copy of the caches before the move, so that the order of the moves cannot matter."""
    out = []
    for cache in caches:
        after = cache.clone()
        for request, (base, accepted) in enumerate(zip(bases, nodes)):
            for k, node in enumerate(accepted, 1):
                at = [(int(table[request, p // BLOCK_SIZE]), p % BLOCK_SIZE) for p in (base + k, base + node)]
                after[at[0]] = cache[at[1]]
        out.append(after)
    return out


def check(compact, bases, nodes, layout, dtype, to=lambda x: x):
    args = arguments(bases, nodes)
    caches = make_caches(args[0].numel(), layout, dtype)
    reference = expected(caches, args[0], bases, nodes)
    caches = [to(cache) for cache in caches]
    compact(cache_table(caches), *(to(arg) for arg in args))
    for cache, after in zip(caches, reference):
        assert torch.equal(cache.cpu(), after)


@given(moves(), st.sampled_from(["nhd", "hnd", "dim_first"]))
@settings(max_examples=60)
def test_rows_move_and_nothing_else_does(move, layout):
    check(kv_compact, *move, layout, torch.int16)


def test_overlapping_moves():
    # Node 3 lands where node 2 came from, and so on down.
    check(kv_compact, [2], [[2, 3, 4, 5, 6]], "nhd", torch.int16)


def test_accepted_chain_moves_nothing():
    check(kv_compact, [5, 0], [[1, 2, 3], []], "nhd", torch.int16)


def test_unlike_layers_are_refused():
    with pytest.raises(ValueError, match="one shape, dtype and device"):
        cache_table([torch.zeros(2, 4, 2, 8), torch.zeros(2, 4, 1, 8)])


@pytest.mark.kernel
@given(moves(), st.sampled_from(["nhd", "hnd", "dim_first"]), st.sampled_from([torch.int16, torch.float32]))
@settings(max_examples=40)
def test_kernel_moves_rows_and_nothing_else(on_device, move, layout, dtype):
    check(kv_compact_triton, *move, layout, dtype, on_device)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16])
def test_kernel_on_other_element_sizes(dtype, on_device):
    args = arguments([3, 1], [[2, 5], [1, 4, 6]])
    caches = [torch.randint(0, 200, (args[0].numel(), BLOCK_SIZE, 3, 5)).to(dtype) for _ in range(4)]
    moved = [on_device(cache.clone()) for cache in caches]
    kv_compact_triton(cache_table(moved), *map(on_device, args))
    kv_compact_torch(cache_table(caches), *args)
    for cache, reference in zip(moved, caches):
        assert torch.equal(cache.cpu(), reference)
