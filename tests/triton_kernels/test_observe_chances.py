"""observe_chances: counts are those of nodes that the target decided on, in their chances' bins, and nothing poisons them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.triton_kernels.observe_chances import (
    BINS,
    ChanceCounts,
    observe_chances,
    observe_chances_torch,
    observe_chances_triton,
)

DECAY, PRIOR, SLOTS = 0.9, 2.0, 7
NONSENSE = (float("nan"), float("inf"), -float("inf"), -1.0, 3.0)


def arguments(trees, width: int, into=torch.int64) -> dict:
    """trees: (slot, parents, chances, verified nodes, accepted nodes) of each request; all other rows hold nonsense."""
    chance = torch.full((SLOTS, width), torch.nan)
    parents = torch.full((SLOTS, width), width - 1, dtype=torch.int32)
    nodes = torch.full((len(trees), width - 1), -1, dtype=torch.int32)
    for request, (slot, above, chances, _, accepted) in enumerate(trees):
        chance[slot, : len(chances)], parents[slot, : len(above)] = torch.tensor(chances), torch.tensor(above).int()
        nodes[request, : len(accepted)] = torch.tensor(accepted, dtype=torch.int32)
    return dict(
        chances=chance,
        parents=parents,
        slot_of=torch.tensor([tree[0] for tree in trees], dtype=into),
        node_bounds=torch.tensor([0, *(tree[3] for tree in trees)]).cumsum(0).int(),
        nodes=nodes,
        lengths=torch.tensor([len(tree[4]) for tree in trees], dtype=torch.int32),
        decay=DECAY,
        prior=PRIOR,
    )


def learnt_before() -> ChanceCounts:
    """Counts of earlier steps."""
    return ChanceCounts(torch.linspace(0, 5, 2 * BINS).reshape(2, BINS), torch.full((BINS + 1,), -7.0))


def expected(trees) -> ChanceCounts:
    """The docstring's sums, node by node."""
    totals = DECAY * learnt_before().totals.double()
    for _, parents, chances, verified, accepted in trees:
        for node in range(verified):
            parent, chance = parents[node], chances[node]
            if (parent == 0 or parent in accepted) and 0 <= chance <= 1:
                bin = min(int(chance * BINS), BINS - 1)
                totals[0, bin] += chance
                totals[1, bin] += node in accepted
    ratio = (totals[1] + PRIOR) / (totals[0] + PRIOR)
    return ChanceCounts(totals, torch.cat((ratio, ratio[-1:])))


def check(observe, trees, width: int, on_device=lambda thing: thing, into=torch.int64) -> None:
    counts = on_device(learnt_before())
    observe(**on_device(arguments(trees, width, into)), counts=counts)
    for part, wanted in zip(counts, expected(trees)):
        torch.testing.assert_close(part.double().cpu(), wanted, atol=1e-4, rtol=1e-5)


CHAIN = [-1, 0, 1, 2]
SHAPES = {
    "a chain cut by the target": [(3, CHAIN, [torch.nan, 0.9, 0.5, 0.2], 4, [1])],
    "a chain taken whole": [(6, CHAIN, [torch.nan, 0.9, 0.5, 0.2], 4, [1, 2, 3])],
    "siblings, the second taken": [(1, [-1, 0, 0, 1, 2], [torch.nan, 0.5, 0.45, 0.8, 0.7], 5, [2, 4])],
    "the first and the last bin": [(0, [-1, 0, 0, 0], [torch.nan, 0.0, 1.0, 1 / BINS], 4, [2])],
    "drafts that were cut": [(2, CHAIN, [torch.nan, 0.9, 0.5, 0.2], 2, [1])],
    "roots alone": [(5, CHAIN, [torch.nan, 0.9, 0.5, 0.2], 1, [])],
    "a draft that said nothing": [(5, CHAIN, [torch.nan] * 4, 4, [1])],
    "placeholders": [(5, [-1] * 4, [0.5] * 4, 4, [])],
    "nonsense beside chances": [(2, [-1] + [0] * 6, [torch.nan, 0.5, *NONSENSE], 7, [1]), (0, CHAIN, [0.3] * 4, 4, [1, 2])],
    "no requests": [],
}


@pytest.mark.parametrize("trees", SHAPES.values(), ids=SHAPES)
def test_counts_are_the_formulas(trees):
    check(observe_chances, trees, 8)


def test_what_was_never_observed_leaves_chances_as_they_are():
    counts = ChanceCounts.empty("cpu")
    observe_chances(**arguments([], 4), counts=counts)
    assert torch.equal(counts.ratio, torch.ones(BINS + 1)) and not counts.totals.any()


@st.composite
def forests(draw, width=64):
    """Any trees, walks down them that end anywhere, and as many verified nodes as the walk needs or more."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def integer(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    trees = []
    for slot in draw(st.permutations(range(SLOTS)))[: draw(st.integers(0, SLOTS))]:
        size, reach = draw(st.sampled_from([1, 2, width]) | st.integers(1, width)), draw(st.sampled_from([1, 3, width]))
        parents = [-1] + [integer(max(0, node - reach), node) for node in range(1, size)]
        chances = [NONSENSE[integer(0, 5)] if not integer(0, 6) else integer(0, 101) / 100 for _ in parents]
        walk, verified = [], draw(st.sampled_from([1, size]) | st.integers(1, size))
        while children := [node for node in range(verified) if parents[node] == (walk[-1] if walk else 0)]:
            if not integer(0, 4):
                break
            walk.append(children[integer(0, len(children))])
        trees.append((slot, parents, chances, verified, walk))
    return trees


@given(forests())
@settings(max_examples=80)
def test_any_forest(trees):
    check(observe_chances, trees, 64)


@pytest.mark.kernel
@pytest.mark.parametrize("into", [torch.int64, torch.int32], ids=["int64 slots", "int32 slots"])
@pytest.mark.parametrize("trees", SHAPES.values(), ids=SHAPES)
def test_kernels_counts_are_the_formulas(on_device, trees, into):
    check(observe_chances_triton, trees, 8, on_device, into)


@pytest.mark.kernel
@given(forests())
@settings(max_examples=30)
def test_kernels_agree_with_torch_path(on_device, trees):
    check(observe_chances_triton, trees, 64, on_device)
    ours, theirs = on_device(learnt_before()), learnt_before()
    observe_chances_triton(**on_device(arguments(trees, 64)), counts=ours)
    observe_chances_torch(**arguments(trees, 64), counts=theirs)
    for part, wanted in zip(ours, theirs):
        torch.testing.assert_close(part.cpu(), wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.kernel
def test_kernels_on_more_requests_than_are_merged_at_once(on_device):
    """130 requests in 7 slots: of such a batch every request counts, and a second run counts the same to the last bit."""
    trees = [(r % SLOTS, CHAIN, [torch.nan, 0.9, 0.5, 0.2 + r % SLOTS / 10], 4, [1, 2][: r % 3]) for r in range(130)]
    check(observe_chances_triton, trees, 4, on_device)
    once, again = on_device(learnt_before()), on_device(learnt_before())
    for counts in (once, again):
        observe_chances_triton(**on_device(arguments(trees, 4)), counts=counts)
    assert torch.equal(once.totals, again.totals) and torch.equal(once.ratio, again.ratio)


@pytest.mark.kernel
def test_nan_never_poisons_the_ratios(on_device):
    """Step after step of a draft that says NaN everywhere, then one of a draft that knows: it is learnt from."""
    counts = on_device(ChanceCounts.empty("cpu"))
    broken = [(slot, CHAIN, [torch.nan] * 4, 4, [1, 2]) for slot in range(SLOTS)]
    for _ in range(3):
        observe_chances_triton(**on_device(arguments(broken, 4)), counts=counts)
    assert torch.equal(counts.ratio.cpu(), torch.ones(BINS + 1))
    observe_chances_triton(**on_device(arguments(SHAPES["a chain taken whole"], 4)), counts=counts)
    assert not counts.totals.isnan().any() and (counts.ratio > 1).sum() == 3
