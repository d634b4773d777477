"""tree_rows: positions, visibility and parents of every row of a step, from what is known of the requests' slots."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.triton_kernels.tree_rows import TreeRows, TreeTables, tree_rows, tree_rows_torch, tree_rows_triton

SLOTS, WIDTH = 6, 9
# In rows of the outputs that nothing is written to.
UNTOUCHED = -77


def tables(seed: int) -> tuple[TreeTables, list[list[int]]]:
    """A random tree in every slot, and its parents."""
    generator = torch.Generator().manual_seed(seed)
    trees = [
        [-1] + [int(torch.randint(0, node, (), generator=generator)) for node in range(1, WIDTH)] for _ in range(SLOTS)
    ]
    depth, ancestors = [], []
    for parents in trees:
        above = [ancestors_of(parents, node) for node in range(WIDTH)]
        depth.append([len(nodes) - 1 for nodes in above])
        ancestors.append([sum(1 << i for i in nodes) for nodes in above])
    return TreeTables(torch.tensor(trees).int(), torch.tensor(depth).int(), torch.tensor(ancestors)), trees


def ancestors_of(parents: list[int], node: int) -> set[int]:
    """A node, what is above it, and so on to the root."""
    found = {node}
    while parents[node] >= 0:
        node = parents[node]
        found.add(node)
    return found


def run(op, requests, trees: TreeTables, to=lambda x: x):
    """requests: (slot, rows, nodes, tokens, prompt tokens) each -> positions and the rows, of more room than is needed."""
    slots, rows, nodes, tokens, prompts = zip(*requests)
    total = sum(rows)
    prompt_lens = torch.zeros(SLOTS, dtype=torch.int32)
    for slot, prompt in zip(slots, prompts):
        prompt_lens[slot] = prompt
    # As vLLM writes them: linear.
    positions = torch.cat([torch.arange(t - r, t) for r, t in zip(rows, tokens)] + [torch.full((3,), UNTOUCHED)])
    out = TreeRows.empty(total + 3, len(requests) + 1, WIDTH, "cpu")
    for part in out:
        part.fill_(UNTOUCHED)
    args = [
        torch.tensor(slots), torch.tensor([0, *rows]).cumsum(0).int(), torch.tensor([0, *nodes]).cumsum(0).int(),
        torch.tensor(tokens).int(), prompt_lens, positions,
    ]  # fmt: skip
    args, trees, out = [to(arg) for arg in args], TreeTables(*map(to, trees)), TreeRows(*map(to, out))
    op(*args, trees, out)
    return args[5].cpu(), TreeRows(*(part.cpu() for part in out))


def check(op, requests, seed: int = 0, to=lambda x: x) -> None:
    """Every number that the docstring speaks of, from the parents alone."""
    drafted, parents_of = tables(seed)
    positions, out = run(op, requests, drafted, to)
    row = node = 0
    for request, (slot, rows, nodes, tokens, prompt) in enumerate(requests):
        lead, root = rows - nodes, tokens - nodes
        # Within the prompt the scheduler's drafts are placeholders: a chain to look at, without children.
        tree = parents_of[slot] if root >= prompt else list(range(-1, WIDTH - 1))
        assert out.roots[request] == root and out.context_lens[request] == tokens - rows
        for i in range(rows):
            above = set(range(i + 1)) if i < lead else set(range(lead)) | {lead + j for j in ancestors_of(tree, i - lead)}
            at = root - lead + i if i < lead else root + len(ancestors_of(tree, i - lead)) - 1
            assert positions[row + i] == at
            assert out.back[row + i] == root - lead + i - at
            if rows <= WIDTH:
                assert {j for j in range(64) if int(out.ancestors[row + i]) >> j & 1} == above
            else:
                assert out.ancestors[row + i] == UNTOUCHED
        expected = tree[:nodes] if root >= prompt else [-1] * nodes
        assert out.parents[node : node + nodes].tolist() == expected
        row, node = row + rows, node + nodes
    assert (positions[row:] == UNTOUCHED).all() and (out.parents[node:] == UNTOUCHED).all()
    assert out.roots[len(requests)] == out.context_lens[len(requests)] == UNTOUCHED


# Slot, rows, nodes, tokens with the step's, tokens of the prompt.
DECODES = [(slot, WIDTH, WIDTH, 40 + 3 * slot, 20) for slot in (4, 0, 2)]
SHAPES = {
    "uniform decodes": DECODES,
    "cut drafts": [(1, 4, 4, 30, 20), (0, 1, 1, 21, 20), (5, 2, 2, 22, 20)],
    "last chunk of a prompt with its root": [(2, 6, 1, 26, 25), (3, 5, 1, 25, 25)],
    "rows before the root of a tree": [(3, 7, 5, 32, 20), (1, 9, 2, 60, 30)],
    "placeholders within a prompt": [(2, 5, 5, 25, 60), (4, 9, 3, 29, 27), (0, 3, 3, 12, 10)],
    "a long prompt beside decodes": [*DECODES, (1, 30, 1, 30, 80), (5, 12, 1, 12, 12)],
    "first token of a prompt": [(0, 1, 1, 1, 1), (1, 1, 1, 1, 5)],
}


@pytest.mark.parametrize("requests", SHAPES.values(), ids=SHAPES)
def test_rows_of_a_step(requests):
    check(tree_rows, requests)


@st.composite
def steps(draw):
    """Any batch that vLLM could form."""
    requests = []
    for slot in draw(st.permutations(range(SLOTS)))[: draw(st.integers(1, SLOTS))]:
        nodes = draw(st.integers(1, WIDTH))
        rows = nodes + draw(st.sampled_from([0, 0, 1, 2, 5, 14]))
        tokens = rows + draw(st.integers(0, 50))
        requests.append((slot, rows, nodes, tokens, draw(st.integers(1, tokens + 9))))
    return requests


@given(steps(), st.integers(0, 2**20))
@settings(max_examples=80)
def test_any_step(requests, seed):
    check(tree_rows, requests, seed)


def test_widest_trees_fit_their_bitmask():
    chains = TreeTables.chains(2, 64, "cpu")
    out = TreeRows.empty(64, 1, 64, "cpu")
    bounds = torch.tensor([0, 64]).int()
    lens = torch.tensor([0, 0]).int()
    tree_rows(torch.tensor([1]), bounds, bounds, torch.tensor([70]).int(), lens, torch.arange(64), chains, out)
    assert out.ancestors[0] == 1 and out.ancestors[62] == 2**63 - 1
    assert out.ancestors[63] == -1
    assert out.back.eq(0).all() and out.parents.tolist() == list(range(-1, 63))


@pytest.mark.kernel
@pytest.mark.parametrize("requests", SHAPES.values(), ids=SHAPES)
def test_kernel_on_rows_of_a_step(on_device, requests):
    check(tree_rows_triton, requests, to=on_device)


@pytest.mark.kernel
@given(steps(), st.integers(0, 2**20))
@settings(max_examples=25)
def test_kernel_agrees_with_torch_path(on_device, requests, seed):
    drafted, _ = tables(seed)
    (positions, out), (expected, rows) = run(tree_rows_triton, requests, drafted, on_device), run(tree_rows_torch, requests, drafted)
    assert torch.equal(positions, expected)
    for part, wanted in zip(out, rows):
        assert torch.equal(part, wanted)


@pytest.mark.kernel
def test_kernel_on_widest_trees(on_device):
    out = TreeRows(*map(on_device, TreeRows.empty(64, 1, 64, "cpu")))
    bounds, lens = on_device(torch.tensor([0, 64]).int()), on_device(torch.tensor([0, 0]).int())
    chains = TreeTables(*map(on_device, TreeTables.chains(2, 64, "cpu")))
    args = [on_device(arg) for arg in (torch.tensor([1]), torch.tensor([70]).int(), torch.arange(64))]
    tree_rows_triton(args[0], bounds, bounds, args[1], lens, args[2], chains, out)
    assert out.ancestors.cpu()[62] == 2**63 - 1 and out.ancestors.cpu()[63] == -1
