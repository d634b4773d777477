"""Paths side by side: a cut list is still a tree, and a path begins where the parent is not the node before."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.tree.layout import lay_out


@st.composite
def forests(draw):
    """parent [Q, n] with every parent before its children, and how many nodes of each tree count."""
    nodes = draw(st.integers(1, 14))
    rows = draw(st.lists(st.tuples(*[st.integers(-1, i - 1) for i in range(nodes)]), min_size=1, max_size=4))
    counts = draw(st.lists(st.integers(0, nodes), min_size=len(rows), max_size=len(rows)))
    return np.array(rows), np.array(counts)


@settings(max_examples=150, deadline=None)
@given(forests())
def test_layout_keeps_the_tree_and_its_cuts(forest):
    parent, counts = forest
    layout = lay_out(parent, counts)
    for q, n in enumerate(counts):
        order, laid = layout.order[q, :n], layout.parent[q, :n]
        assert sorted(order) == list(range(n))
        above = np.where(laid > 0, order[laid - 1], -1)
        assert (above == parent[q, order]).all()
        # Every prefix holds its own parents.
        assert (laid <= np.arange(n)).all()


@settings(max_examples=150, deadline=None)
@given(forests())
def test_paths_follow_best_children(forest):
    parent, counts = forest
    layout = lay_out(parent, counts)
    for q, n in enumerate(counts):
        order = layout.order[q, :n]
        first_child = {}
        for node in range(n):
            first_child.setdefault(int(parent[q, node]), node)
        # A node lies right behind its parent exactly where it is its parent's first child.
        for place, node in enumerate(order):
            above = 0 if parent[q, node] < 0 else int(np.flatnonzero(order == parent[q, node])[0]) + 1
            assert (layout.parent[q, place] == place) == (first_child[int(parent[q, node])] == node)
            assert layout.parent[q, place] == above


def test_the_most_probable_path_comes_first():
    #   0 and 1 under the root, 2 under 0, 3 under 1, 4 under 2
    layout = lay_out(np.array([[-1, -1, 0, 1, 2]]), np.array([5]))
    assert layout.order[0].tolist() == [0, 2, 4, 1, 3]
    assert layout.parent[0].tolist() == [0, 1, 2, 0, 4]
