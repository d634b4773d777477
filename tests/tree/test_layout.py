"""Paths side by side: a cut list is still a tree, and a path begins where the parent is not the node before."""

from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.tree.layout import lay_out


@st.composite
def trees(draw):
    """Parents, every one before its children."""
    return [draw(st.integers(-1, node - 1)) for node in range(draw(st.integers(0, 14)))]


@settings(max_examples=150, deadline=None)
@given(trees())
def test_layout_keeps_the_tree_and_its_cuts(parents):
    order, laid = lay_out(parents)
    assert sorted(order) == list(range(len(parents)))
    assert [order[above - 1] if above else -1 for above in laid] == [parents[node] for node in order]
    # Every prefix holds its own parents.
    assert all(above <= place for place, above in enumerate(laid))


@settings(max_examples=150, deadline=None)
@given(trees())
def test_paths_follow_best_children(parents):
    order, laid = lay_out(parents)
    for place, node in enumerate(order):
        # A node lies right behind its parent exactly where it is its parent's first child.
        assert (laid[place] == place) == (parents.index(parents[node]) == node)


def test_the_most_probable_path_comes_first():
    #   0 and 1 under the root, 2 under 0, 3 under 1, 4 under 2
    assert lay_out([-1, -1, 0, 1, 2]) == ([0, 2, 4, 1, 3], [0, 1, 2, 0, 4])
