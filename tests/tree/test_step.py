"""A step's trees as one list of nodes, and what the target's walk says about the draft's chances."""

import numpy as np

from vllm_specflash.tree.step import Draft, StepTrees

TREE = Draft([-1, 0, 1, 0, 3], [np.nan, 0.6, 0.5, 0.3, 0.2])


def test_depths_paths_and_ancestors_of_a_mixed_batch():
    trees = StepTrees.of([Draft.chain(0), TREE, Draft.chain(2)])
    assert trees.counts.tolist() == [1, 5, 3]
    assert trees.depth.tolist() == [0, 0, 1, 2, 1, 2, 0, 1, 2]
    assert np.flatnonzero(trees.starts_path).tolist() == [4]
    assert trees.branches
    assert trees.ancestors[5].tolist() == [5, 4, 1]
    assert trees.ancestors[6].tolist() == [6, -1, -1]


def test_chains_do_not_branch():
    assert not StepTrees.of([Draft.chain(3), Draft.chain(0)]).branches


def test_a_cut_draft_is_still_a_tree():
    cut = TREE.cut(3)
    assert cut.parents == [-1, 0, 1, 0] and StepTrees.of([cut]).branches
    assert not StepTrees.of([TREE.cut(2)]).branches


def test_the_target_decides_on_children_of_accepted_nodes_alone():
    trees = StepTrees.of([TREE, Draft.chain(2)])
    lengths, nodes = np.array([2, 1]), np.array([[3, 4], [1, -1]])
    chance, accepted = trees.observations(lengths, nodes)
    # Nodes 1, 3 and 4 of the tree were asked for; of the chain nothing is known but its length.
    assert chance.tolist() == [0.6, 0.3, 0.2]
    assert accepted.tolist() == [False, True, True]


def test_walks_that_are_none_of_the_trees_are_no_memory_fault():
    """What counts is that nothing is read or written outside, which compiled loops do not check."""
    trees = StepTrees.of([TREE, Draft.chain(2)])
    chance, _ = trees.observations(np.array([9, 1]), np.array([[70, -7], [1 << 30, -1]], np.int32))
    # Of the tree the root alone was accepted, and its children asked for.
    assert chance.tolist() == [0.6, 0.3]
