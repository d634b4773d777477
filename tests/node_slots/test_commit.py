"""After acceptance the accepted path lies where a chain would, in every layer, and nothing else has moved."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_specflash.engine.node_slots import NodeVerification, ancestor_bits, keys_and_values, to_device
from vllm_specflash.tree.step import Draft, StepTrees
from vllm_specflash.triton_kernels.tree_accept import tree_accept

LAYERS, KV_HEADS, HEAD_DIM = 3, 2, 8


@st.composite
def forests(draw):
    """Parents of every request's tree, and the position of its root."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    trees = [[-1, *(draw(st.integers(0, node - 1)) for node in range(1, size))] for size in sizes]
    return trees, [draw(st.integers(0, 40)) for _ in trees]


def step_trees(trees: list[list[int]]) -> StepTrees:
    return StepTrees.of([Draft(np.array(parents), np.full(len(parents), np.nan)) for parents in trees])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(forests(), st.sampled_from([16, 32]), st.integers(0, 10_000))
def test_accepted_paths_end_up_in_place(kernels, device, forest, block_size, seed):
    parents, base = forest
    generator = np.random.default_rng(seed)
    trees, base = step_trees(parents), np.array(base)
    pages = (int((base + trees.counts).max()) // block_size) + 1
    table = torch.from_numpy(generator.permutation(len(parents) * pages).reshape(-1, pages)).int().to(device)
    shape = (table.numel(), block_size, KV_HEADS, 2 * HEAD_DIM)
    # As in the cache, keys and values of a position and head lie side by side, whatever the order of the rest.
    caches = [torch.randn(shape, device=device).transpose(1, 2) for _ in range(LAYERS)]
    before = [cache.clone() for cache in caches]
    # The target's token after a node is one of its children's, or none's.
    tokens = torch.arange(len(trees.parents), device=device)
    sampled = torch.from_numpy(generator.integers(0, len(tokens), len(tokens))).to(device)
    for node, parent in enumerate(trees.parents):
        if parent >= 0 and generator.random() < 0.6:
            sampled[trees.first[trees.request[node]] + parent] = node
    bounds = torch.from_numpy(np.append(0, np.cumsum(trees.counts)).astype(np.int32)).to(device)
    acceptance = tree_accept(tokens, torch.from_numpy(trees.parents).to(device), sampled, bounds, int(trees.counts.max()))

    verification = NodeVerification([SimpleNamespace(kv_cache=cache) for cache in caches])
    verification.begin(trees, trees.counts + generator.integers(0, 2, len(base)), base)
    assert (verification.on_device(table) is not None) == trees.branches
    verification.commit(acceptance)

    expected = [cache.clone() for cache in before]
    for request, root in enumerate(base.tolist()):
        for k, node in enumerate(acceptance.nodes[request, : int(acceptance.lengths[request])].tolist(), 1):
            for after, cache in zip(expected, before):
                source, target = (
                    (int(table[request, at // block_size]), slice(None), at % block_size) for at in (root + node, root + k)
                )
                after[target] = cache[source]
    for cache, after in zip(caches, expected):
        assert torch.equal(cache, after)


def test_views_are_of_the_cache_itself():
    cache = torch.zeros(2, 16, KV_HEADS, 2 * HEAD_DIM).transpose(1, 2)
    keys, values = keys_and_values(cache)
    keys[1, 3, 0], values[1, 3, 1] = 1, 2
    assert cache[1, 0, 3].tolist() == [1] * HEAD_DIM + [0] * HEAD_DIM
    assert cache[1, 1, 3].tolist() == [0] * HEAD_DIM + [2] * HEAD_DIM


@given(forests())
@settings(max_examples=30, deadline=None)
def test_bits_are_ancestors(forest):
    parents, _ = forest
    trees = step_trees(parents)
    bits = iter(ancestor_bits(trees, np.arange(len(trees.parents))).tolist())
    for tree in parents:
        for node in range(len(tree)):
            up, expected = node, 0
            while up >= 0:
                expected, up = expected | 1 << up, tree[up]
            assert next(bits) % 2**64 == expected


def test_the_last_bit_is_a_node_too():
    trees = step_trees([[-1, *range(63)]])
    assert ancestor_bits(trees, np.arange(64))[-1] == -1


@pytest.mark.parametrize("empty", [False, True])
def test_arrays_arrive_as_they_were(device, empty):
    arrays = [np.arange(0 if empty else 5, dtype=np.int32), np.array([2**62, -1]), np.array([1.5, np.nan, 3], dtype=np.float32)]
    for array, copied in zip(arrays, to_device(arrays, device)):
        assert copied.device.type == device.type
        np.testing.assert_array_equal(copied.cpu().numpy(), array)
        assert copied.dtype == torch.from_numpy(array).dtype
