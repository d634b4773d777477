"""tree_accept: the walk follows the target's own tokens and stops at the first it cannot follow."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.triton_kernels.tree_accept import tree_accept, tree_accept_torch, tree_accept_triton


def flatten(trees):
    """trees: per request (parents, tokens, sampled) -> the op's arguments."""
    parents, tokens, sampled = (torch.tensor([x for tree in trees for x in tree[part]]) for part in range(3))
    cu_nodes = torch.tensor([0, *(len(tree[0]) for tree in trees)]).cumsum(0).int()
    return dict(tokens=tokens, parents=parents.int(), sampled=sampled, cu_nodes=cu_nodes)


def walk(parents, tokens, sampled):
    """The rule, read off the docstring: accepted nodes and emitted tokens of one tree."""
    node, nodes, emitted = 0, [], [sampled[0]]
    while True:
        children = [c for c in range(len(parents)) if parents[c] == node and tokens[c] == sampled[node]]
        if not children:
            return nodes, emitted
        node = children[0]
        nodes.append(node)
        emitted.append(sampled[node])


def check(result, trees, width):
    lengths, nodes, tokens = (part.tolist() for part in result)
    for request, tree in enumerate(trees):
        expected_nodes, expected_tokens = walk(*tree)
        assert lengths[request] == len(expected_nodes)
        assert nodes[request] == expected_nodes + [-1] * (width - 1 - len(expected_nodes))
        assert tokens[request] == expected_tokens + [-1] * (width - len(expected_tokens))


@st.composite
def trees(draw, max_nodes=64, vocabulary=3):
    """A tiny vocabulary, so that long acceptances and siblings with equal tokens both happen."""
    size = draw(st.sampled_from([1, 2, max_nodes]) | st.integers(1, max_nodes))
    seed = draw(st.integers(0, 2**31))
    reach = draw(st.sampled_from([1, 3, max_nodes]))
    generator = torch.Generator().manual_seed(seed)

    def integer(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    parents = [-1] + [integer(max(0, node - reach), node) for node in range(1, size)]
    return parents, [integer(0, vocabulary) for _ in parents], [integer(0, vocabulary) for _ in parents]


@given(st.lists(trees(), min_size=1, max_size=5), st.integers(0, 3))
@settings(max_examples=120)
def test_walk_of_any_forest(forest, slack):
    width = max(len(tree[0]) for tree in forest) + slack
    check(tree_accept(**flatten(forest), max_num_nodes=width), forest, width)


def test_whole_chain_accepted():
    chain = [-1, 0, 1, 2], [9, 5, 6, 7], [5, 6, 7, 8]
    result = tree_accept(**flatten([chain]), max_num_nodes=4)
    assert result.lengths.tolist() == [3] and result.nodes.tolist() == [[1, 2, 3]]
    assert result.tokens.tolist() == [[5, 6, 7, 8]]


def test_root_alone_emits_the_bonus_token():
    result = tree_accept(**flatten([([-1], [9], [5])]), max_num_nodes=1)
    assert result.lengths.tolist() == [0] and result.nodes.shape == (1, 0) and result.tokens.tolist() == [[5]]


def test_tables_that_say_otherwise_than_each_other_are_refused_on_cpus():
    with pytest.raises(IndexError, match="4 nodes, but 3 tokens, 3 parents and 3 sampled tokens"):
        tree_accept(torch.zeros(3).long(), torch.tensor([-1, 0, 1]), torch.zeros(3).long(), torch.tensor([0, 4]), 4)


def test_counters_grow_by_trees_their_tokens_and_paths_that_lie_elsewhere():
    in_place, aside = ([-1, 0, 1], [9, 5, 6], [5, 6, 7]), ([-1, 0, 0, 2], [9, 4, 5, 6], [5, 1, 6, 1])
    counters = torch.tensor([10, 10, 10])
    tree_accept(**flatten([in_place, aside, ([-1], [9], [5])]), max_num_nodes=4, counters=counters)
    assert counters.tolist() == [12, 16, 11]


def test_first_of_equal_siblings_counts():
    tree = [-1, 0, 0, 2], [9, 5, 5, 6], [5, 1, 6, 1]
    assert tree_accept(**flatten([tree]), max_num_nodes=4).nodes.tolist() == [[1, -1, -1]]


def test_a_match_below_a_rejected_node_is_not_accepted():
    tree = [-1, 0, 1], [9, 4, 6], [5, 6, 7]
    assert tree_accept(**flatten([tree]), max_num_nodes=3).tokens.tolist() == [[5, -1, -1]]


@pytest.mark.kernel
@given(st.lists(trees(), min_size=1, max_size=4))
@settings(max_examples=40)
def test_kernel_agrees_with_torch_path(on_device, forest):
    args, width = flatten(forest), max(len(tree[0]) for tree in forest)
    result = tree_accept_triton(**on_device(args), max_num_nodes=width)
    check(result, forest, width)
    for part, expected in zip(result, tree_accept_torch(**args, max_num_nodes=width)):
        assert torch.equal(part.cpu(), expected)
