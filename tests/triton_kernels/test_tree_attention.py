"""tree_attention: node i sees the context and its own ancestors, nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.triton_kernels.tree_attention import tree_attention, tree_attention_torch, tree_attention_triton


def random_parents(nodes, shape="random"):
    """Parents of a tree of that many nodes, -1 at the root."""
    if shape == "chain":
        return list(range(-1, nodes - 1))
    if shape == "star":
        return [-1] + [0] * (nodes - 1)
    return [-1] + [int(torch.randint(0, node, ())) for node in range(1, nodes)]


def problem(
    contexts, trees, ancestor_masks, heads=4, kv_heads=2, head_dim=16, block_size=16, dtype=torch.float32, layout="nhd"
):
    """trees: the parents of every request's tree; pages in random order, slots no request owns hold NaN."""
    per_request = [-(-(c + len(t)) // block_size) for c, t in zip(contexts, trees)]
    width = max(1, *per_request)
    pages = torch.randperm(sum(per_request) + 1)
    table = torch.full((len(trees), width), -1, dtype=torch.int32)
    shape = dict(nhd=(block_size, kv_heads, head_dim), hnd=(kv_heads, block_size, head_dim))[layout]
    key_cache, value_cache = torch.full((2, len(pages), *shape), torch.nan, dtype=dtype)
    if layout == "hnd":
        key_cache, value_cache = key_cache.transpose(1, 2), value_cache.transpose(1, 2)
    first = 0
    for request, (context, tree) in enumerate(zip(contexts, trees)):
        owned = pages[first : first + per_request[request]]
        first += per_request[request]
        table[request, : len(owned)] = owned.int()
        for position in range(context + len(tree)):
            page, offset = owned[position // block_size], position % block_size
            key_cache[page, offset], value_cache[page, offset] = torch.randn(2, kv_heads, head_dim).to(dtype)
    return dict(
        query=torch.randn(sum(map(len, trees)), heads, head_dim).to(dtype),
        key_cache=key_cache,
        value_cache=value_cache,
        block_table=table,
        context_lens=torch.tensor(contexts, dtype=torch.int32),
        cu_nodes=torch.tensor([0, *map(len, trees)]).cumsum(0).int(),
        ancestors=torch.cat([ancestor_masks(tree) for tree in trees]) if any(trees) else torch.empty(0, dtype=torch.int64),
        scale=head_dim**-0.5,
    )


def oracle(args, trees):
    """Every node alone over the explicit list of positions it sees, float64."""
    query, key_cache, value_cache, table = (args[k] for k in ("query", "key_cache", "value_cache", "block_table"))
    block_size, group = key_cache.shape[1], query.shape[1] // key_cache.shape[2]
    out = torch.zeros(query.shape, dtype=torch.float64)
    for request, tree in enumerate(trees):
        context, first = int(args["context_lens"][request]), int(args["cu_nodes"][request])
        for node in range(len(tree)):
            seen, up = list(range(context)), node
            while up >= 0:
                seen.append(context + up)
                up = tree[up]
            seen = torch.tensor(seen)
            at = table[request, seen // block_size].long(), seen % block_size
            key, value = (c[at].double().repeat_interleave(group, 1) for c in (key_cache, value_cache))
            weights = (torch.einsum("hd,lhd->hl", query[first + node].double(), key) * args["scale"]).softmax(-1)
            out[first + node] = torch.einsum("hl,lhd->hd", weights, value)
    return out


BATCHES = {
    "root_alone_without_context": ([0], [1], {}),
    "64_nodes_without_context": ([0], [64], {}),
    "64_nodes": ([77], [64], {}),
    "last_block_full": ([60], [4], {}),
    "ragged": ([5, 0, 130, 64], [1, 7, 3, 16], {}),
    "request_without_nodes": ([9, 4, 20], [2, 0, 5], {}),
    "big_blocks": ([200, 3], [5, 9], dict(block_size=128)),
    "odd_group": ([33, 70], [6, 2], dict(heads=7, kv_heads=1, head_dim=24)),
    "heads_first": ([33, 70], [6, 2], dict(layout="hnd", block_size=32)),
    "no_grouping": ([40], [10], dict(heads=3, kv_heads=3, head_dim=64, block_size=64)),
    "wide_heads": ([18], [12], dict(heads=2, kv_heads=1, head_dim=256)),
}


@pytest.fixture(params=BATCHES, scope="session")
def batch(request, ancestor_masks):
    torch.manual_seed(1)
    contexts, sizes, options = BATCHES[request.param]
    trees = [random_parents(n) for n in sizes]
    return lambda **more: (problem(contexts, trees, ancestor_masks, **options, **more), trees)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_path_against_float64(batch, dtype, close):
    args, trees = batch(dtype=dtype)
    close(tree_attention(**args), oracle(args, trees))


@pytest.mark.parametrize("shape", ["chain", "star"])
def test_narrowest_and_widest_tree(shape, ancestor_masks, close):
    trees = [random_parents(64, shape)]
    args = problem([30], trees, ancestor_masks)
    close(tree_attention(**args), oracle(args, trees))


def test_result_goes_where_it_is_told(ancestor_masks):
    args = problem([30, 4], [random_parents(3), random_parents(2)], ancestor_masks)
    out = torch.empty_like(args["query"])
    assert tree_attention(**args, out=out) is out
    assert torch.equal(out, tree_attention(**args))


def test_trees_beyond_the_bitmask_are_refused(ancestor_masks):
    args = problem([0], [random_parents(64)], ancestor_masks)
    with pytest.raises(ValueError, match="the limit is 64"):
        tree_attention(**args, max_num_nodes=65)


@st.composite
def forests(draw):
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    return [[-1] + [draw(st.integers(0, node - 1)) for node in range(1, size)] for size in sizes]


@given(trees=forests(), data=st.data())
@settings(max_examples=30)
def test_any_forest_against_float64(trees, data, ancestor_masks, close):
    contexts = [data.draw(st.integers(0, 40)) for _ in trees]
    args = problem(contexts, trees, ancestor_masks, head_dim=8)
    close(tree_attention(**args), oracle(args, trees))


def corrupt_non_ancestors(args, trees, node):
    """Large values in every tree position of request 0 that `node` must not see."""
    ancestors, up = set(), node
    while up >= 0:
        ancestors.add(up)
        up = trees[0][up]
    block_size = args["key_cache"].shape[1]
    for other in set(range(len(trees[0]))) - ancestors:
        position = int(args["context_lens"][0]) + other
        page = args["block_table"][0, position // block_size].long()
        args["key_cache"][page, position % block_size] = 50.0
        args["value_cache"][page, position % block_size] = 1e4


@pytest.mark.parametrize("node", [0, 5, 11])
def test_what_is_no_ancestor_has_no_influence(node, ancestor_masks):
    trees = [random_parents(12)]
    args = problem([20], trees, ancestor_masks)
    before = tree_attention(**args)[node].clone()
    corrupt_non_ancestors(args, trees, node)
    torch.testing.assert_close(tree_attention(**args)[node], before)


@pytest.mark.kernel
@pytest.mark.parametrize("num_splits", [1, 3])
def test_kernel_agrees_with_torch_path(batch, num_splits, on_device, close):
    args, _ = batch()
    close(tree_attention_triton(**on_device(args), num_splits=num_splits), tree_attention_torch(**args))


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [64, 80, 128])
def test_kernel_in_half_precision(dtype, head_dim, ancestor_masks, on_device, close):
    trees = [random_parents(20), random_parents(1)]
    args = problem([90, 300], trees, ancestor_masks, head_dim=head_dim, dtype=dtype)
    close(tree_attention_triton(**on_device(args), num_splits=2), tree_attention_torch(**args))


@pytest.mark.kernel
@given(trees=forests(), data=st.data())
@settings(max_examples=12)
def test_kernel_on_any_forest(trees, data, ancestor_masks, on_device, close):
    contexts = [data.draw(st.integers(0, 80)) for _ in trees]
    args = problem(contexts, trees, ancestor_masks)
    num_splits = data.draw(st.integers(1, 4))
    close(tree_attention_triton(**on_device(args), num_splits=num_splits), tree_attention_torch(**args))
