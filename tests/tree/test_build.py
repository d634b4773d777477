"""Best-first trees: the n likeliest nodes, parents before children, whatever the batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.tree.build import best_trees
from vllm_specflash.tree.calibration import UNCALIBRATED


def _tables(seed: int, requests: int, depth: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    first = rng.dirichlet(np.full(width + 1, 0.4), requests)[:, :width]
    following = rng.dirichlet(np.full(width + 1, 0.4), (requests, depth - 1, width))[..., :width]
    return first.astype(np.float32), following.astype(np.float32)


def _every_node(first: np.ndarray, following: np.ndarray) -> dict[tuple[int, ...], float]:
    """Chance of every path of candidates of one request."""
    chances = {(c,): float(p) for c, p in enumerate(first)}
    level = dict(chances)
    for table in following:
        level = {(*path, c): p * float(table[path[-1], c]) for path, p in level.items() for c in range(len(first))}
        chances.update(level)
    return chances


def _paths(trees, request: int) -> list[tuple[int, ...]]:
    paths = []
    for node in np.flatnonzero(trees.chance[request] > 0):
        parent = trees.parent[request, node]
        above = paths[parent] if parent >= 0 else ()
        assert len(above) + 1 == trees.depth[request, node]
        paths.append((*above, int(trees.candidate[request, node])))
    return paths


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 20))
def test_a_tree_holds_the_likeliest_nodes_in_order(seed, requests, depth, width, nodes):
    first, following = _tables(seed, requests, depth, width)
    trees = best_trees(first, following, nodes)
    for request in range(requests):
        everything = _every_node(first[request], following[request])
        best = sorted(everything.values(), reverse=True)[:nodes]
        found = _paths(trees, request)
        assert len(set(found)) == len(found) == min(nodes, len(everything))
        np.testing.assert_allclose(trees.chance[request, : len(found)], best, rtol=1e-4)
        np.testing.assert_allclose([everything[path] for path in found], best, rtol=1e-4)


def test_the_same_tables_give_the_same_tree_in_any_batch():
    first, following = _tables(5, 4, 5, 6)
    together = best_trees(first, following, 12)
    for request in range(4):
        alone = best_trees(first[request : request + 1], following[request : request + 1], 12)
        for name in ("parent", "depth", "candidate", "chance"):
            assert (getattr(alone, name)[0] == getattr(together, name)[request]).all()


def test_calibration_moves_the_tree_but_not_what_the_draft_said():
    """Taught with its own corrections, a calibration would correct by the root of what is due."""
    first, following = _tables(3, 2, 3, 4)
    halved = best_trees(first, following, 10, ratio=UNCALIBRATED / 2)
    for request in range(2):
        everything = _every_node(first[request], following[request])
        for node, path in enumerate(_paths(halved, request)):
            said = first[request, path[0]] if len(path) == 1 else following[request, len(path) - 2, path[-2], path[-1]]
            assert halved.conditional[request, node] == pytest.approx(said, rel=1e-6)
            assert halved.chance[request, node] == pytest.approx(everything[path] / 2 ** len(path), rel=1e-5)


def test_certain_tokens_come_after_their_parents():
    first = np.array([[1.0, 0.0]], dtype=np.float32)
    following = np.tile(np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32), (1, 3, 1, 1))
    trees = best_trees(first, following, 6)
    assert trees.parent[0, :4].tolist() == [-1, 0, 1, 2]
    assert (trees.chance[0, 4:] == 0).all()


def test_nonsense_is_never_taken():
    first, following = _tables(1, 2, 3, 3)
    first[0] = np.nan
    following[1, 0] = np.nan
    trees = best_trees(first, following, 8)
    assert (trees.chance[0] == 0).all()
    assert trees.depth[1][trees.chance[1] > 0].max() == 1


@pytest.mark.parametrize("nodes", [1, 3, 16])
def test_chains_are_the_narrowest_trees(nodes):
    first, following = _tables(7, 3, 5, 4)
    trees = best_trees(first, following, nodes, chain=np.array([True, False, True]))
    length = min(nodes, 5)
    for request in (0, 2):
        assert trees.parent[request, :length].tolist() == list(range(-1, length - 1))
        assert (trees.chance[request, length:] == 0).all()
        assert trees.candidate[request, 0] == first[request].argmax()
    untouched = best_trees(first, following, nodes)
    assert (trees.chance[1] == untouched.chance[1]).all()


def test_no_node_is_deeper_than_its_request_has_room_for():
    first, following = _tables(9, 3, 5, 4)
    trees = best_trees(first, following, 12, deepest=np.array([0, 2, 9]))
    assert [int(depth[chance > 0].max(initial=0)) for depth, chance in zip(trees.depth, trees.chance)] == [0, 2, 5]


def test_a_side_path_starts_at_every_child_but_the_best():
    first, following = _tables(4, 2, 3, 4)
    trees = best_trees(first, following, 12)
    for parents, starts in zip(trees.parent.tolist(), trees.starts_path.tolist()):
        assert starts == [parent in parents[:node] for node, parent in enumerate(parents)]
