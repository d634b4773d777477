"""best_tree: the n likeliest nodes, best first, of what the candidates' chances allow."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.triton_kernels.best_tree import BINS, best_tree, best_tree_torch, best_tree_triton


def problem(requests, levels, width, nodes, sharpness=3.0, **more):
    """Chances of a draft that is fairly sure of itself, a calibration that corrects it, every request as deep as it goes."""
    args = dict(
        first=(sharpness * torch.randn(requests, width)).softmax(-1),
        following=(sharpness * torch.randn(requests, levels - 1, width, width)).softmax(-1),
        num_nodes=nodes,
        deepest=torch.full((requests,), levels, dtype=torch.int32),
        chain=torch.zeros(requests, dtype=torch.bool),
        ratio=torch.rand(BINS + 1) + 0.5,
    )
    return args | more


def search(args, request):
    """The rule, read off the module's docstring, cell by cell in float32: [(parent, depth, candidate, chance, said)]."""
    first, following, ratio = (args[name].numpy() for name in ("first", "following", "ratio"))
    width, deepest = first.shape[1], min(int(args["deepest"][request]), following.shape[1] + 1)
    nodes, frontier = [], []

    def open_row(parent, depth, chance, cells):
        said = np.clip(np.nan_to_num(cells, nan=0.0), 0, 1).astype(np.float32)
        likeliest = said.argmax()
        for c in range(width):
            allowed = not args["chain"][request] or c == likeliest
            value = chance * min(said[c] * ratio[int(said[c] * BINS)], np.float32(1 - 1e-7))
            if depth <= deepest and allowed and value >= np.float32(1e-30):
                frontier.append((-value, parent, c, depth, said[c]))

    open_row(-1, 1, np.float32(1), first[request])
    while frontier and len(nodes) < args["num_nodes"]:
        best = min(frontier)
        frontier.remove(best)
        value, parent, c, depth, said = best
        nodes.append((parent, depth, c, -value, said))
        if depth <= following.shape[1]:
            open_row(len(nodes) - 1, depth + 1, -value, following[request, depth - 1, c])
    return nodes


def check(tree, args):
    """Against the search, request by request; where it found no more nodes, entries are safe to index with."""
    n = args["num_nodes"]
    for request in range(len(args["first"])):
        nodes = search(args, request)
        nodes += [(-1, 1, 0, 0.0, 0.0)] * (n - len(nodes))
        for part, expected in zip(tree[:5], zip(*nodes)):
            assert part[request].tolist() == pytest.approx(list(expected), rel=0, abs=0)
        parents = [-1] + [parent + 1 for parent, *_ in nodes]
        assert tree.parents_with_root[request].tolist() == parents
        assert tree.depth_with_root[request].tolist() == [0] + [depth for _, depth, *_ in nodes]
        bits = []
        for node, parent in enumerate(parents):
            bits.append((bits[parent] if node else 0) | 1 << node)
        assert [b % (1 << 64) for b in tree.ancestors[request].tolist()] == bits


SHAPES = {
    "as_served": dict(requests=3, levels=7, width=32, nodes=16),
    "one_node": dict(requests=2, levels=3, width=4, nodes=1),
    "most_nodes": dict(requests=2, levels=5, width=12, nodes=63),
    "one_position": dict(requests=2, levels=1, width=5, nodes=3),
    "fewer_cells_than_nodes": dict(requests=2, levels=1, width=3, nodes=9),
    "one_candidate": dict(requests=2, levels=6, width=1, nodes=9),
    "odd_width": dict(requests=1, levels=4, width=11, nodes=20),
}


def variations():
    for name, shape in SHAPES.items():
        yield pytest.param((shape, {}), id=name)
    shape = dict(requests=3, levels=5, width=8, nodes=12)
    yield pytest.param((shape, dict(deepest=torch.tensor([0, 2, 9], dtype=torch.int32))), id="depths")
    yield pytest.param((shape, dict(chain=torch.tensor([True, False, True]))), id="chains")
    yield pytest.param((shape, dict(sharpness=0.0)), id="all_equal")
    yield pytest.param((shape, dict(sharpness=40.0)), id="all_or_nothing")


@pytest.fixture(params=variations())
def case(request):
    shape, more = request.param
    return problem(**shape, **more)


def test_cpu_path_against_the_search(case):
    check(best_tree(**case), case)


def nonsense(args):
    """NaN, infinite, negative and greater-than-one chances; request 1 has nothing else."""
    args["first"][0, :3] = torch.tensor([torch.nan, -1.0, 1.5])
    args["following"][0, 0, 2, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
    args["first"][1], args["following"][1] = torch.nan, torch.nan
    return args


def test_what_is_no_chance_is_never_taken():
    args = nonsense(problem(2, 3, 6, 10))
    tree = best_tree(**args)
    check(tree, args)
    assert tree.candidate[0, 0] == 2 and tree.conditional[0, 0] == 1.0
    assert not tree.chance[1].any()


def test_of_equal_chances_the_earlier_parents_comes_first():
    first = torch.tensor([[0.5, 0.5, 0.25]])
    following = torch.tensor([[[[0.5, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]]])
    args = problem(1, 2, 3, 6, first=first, following=following, ratio=torch.ones(BINS + 1))
    tree = best_tree(**args)
    assert tree.parents.tolist() == [[-1, -1, -1, 0, 0, 1]]
    assert tree.candidate.tolist() == [[0, 1, 2, 0, 1, 0]]


def test_a_child_is_never_as_likely_as_its_parent():
    args = problem(1, 7, 2, 7, sharpness=1e4, ratio=torch.full((BINS + 1,), 3.0))
    chance = best_tree(**args).chance[0]
    assert (chance > 0.99999).all() and (chance.diff() < 0).all()


@st.composite
def drafts(draw):
    """Chances of few distinct values, powers of two, so that products are exact and ties are common."""
    requests, levels, width = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.tensor(draw(st.sampled_from([[0.5, 0.25, 0.0], [0.9, 0.3, 0.2, 0.15, 0.05, torch.nan]])))

    def chances(*shape):
        return values[torch.randint(0, len(values), shape, generator=generator)]

    return problem(
        requests, levels, width, draw(st.integers(1, 12)),
        first=chances(requests, width), following=chances(requests, levels - 1, width, width),
        deepest=torch.randint(0, levels + 1, (requests,), generator=generator).int(),
        chain=torch.rand(requests, generator=generator) < 0.3, ratio=torch.ones(BINS + 1),
    )  # fmt: skip


@given(drafts())
@settings(max_examples=60)
def test_cpu_path_finds_the_same_chances_whatever_the_ties(args):
    tree = best_tree(**args)
    for request in range(len(args["first"])):
        found = [node[3] for node in search(args, request)]
        assert tree.chance[request].tolist() == pytest.approx(found + [0.0] * (args["num_nodes"] - len(found)), rel=0, abs=0)
    above = torch.cat((torch.ones(len(tree.chance), 1), tree.chance), 1).gather(1, tree.parents_with_root[:, 1:].long())
    assert (tree.chance < above).all()


@pytest.mark.parametrize("nodes", [0, 64])
def test_trees_beyond_the_bitmask_are_refused(nodes):
    with pytest.raises(ValueError, match=f"from 1 to 63 nodes, the root not counted: {nodes} were asked for"):
        best_tree(**problem(1, 2, 3, nodes))


def test_no_value_is_read_on_the_host(faked):
    with faked(problem(3, 4, 8, 7), "cuda") as args:
        tree = best_tree(**args)
    assert tree.ancestors.shape == (3, 8) and tree.chance.device.type == "cuda"


def test_one_path_that_is_nearly_sure_is_followed_to_its_end():
    args = problem(2, 16, 32, 16, sharpness=0.0, ratio=torch.ones(BINS + 1))
    args["first"][:, 3], args["following"][:, :, :, 3] = 0.9, 0.9
    check(best_tree(**args), args)
    assert best_tree(**args).depth[:, :15].tolist() == 2 * [list(range(1, 16))]


@pytest.mark.kernel
def test_kernel_against_the_search(case, on_device):
    check(best_tree_triton(**on_device(case)), case)
    for part, expected in zip(best_tree_triton(**on_device(case)), best_tree_torch(**case)):
        assert torch.equal(part.cpu(), expected)


@pytest.mark.kernel
def test_kernel_takes_no_nonsense(on_device):
    args = nonsense(problem(2, 3, 6, 10))
    check(best_tree_triton(**on_device(args)), args)


@pytest.mark.kernel
def test_kernel_reads_any_strides(on_device):
    args = problem(2, 4, 6, 10)
    args["following"] = args["following"][:, :, :1].expand(-1, -1, 6, -1)
    args["first"] = torch.stack((args["first"], args["first"]), 1)[:, 1]
    check(best_tree_triton(**on_device(args)), args)


@pytest.mark.kernel
@given(args=drafts())
@settings(max_examples=40)
def test_kernel_breaks_ties_as_the_search_does(on_device, args):
    check(best_tree_triton(**on_device(args)), args)
