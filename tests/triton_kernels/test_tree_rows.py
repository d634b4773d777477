"""tree_rows: where the rows of a step stand, and what each of them sees, from what was drafted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.triton_kernels.tree_rows import TreeRows, TreeTables, tree_rows_torch, tree_rows_triton

WIDTH = 6
UNTOUCHED = -7


def problem(requests, trees):
    """requests: (slot, rows before the root, nodes, tokens before the root, prompt length); trees: parents by slot."""
    tables = TreeTables.chains(len(trees), WIDTH, "cpu")
    for slot, parents in enumerate(trees):
        for node, parent in enumerate(parents):
            tables.parents[slot, node] = parent
            tables.depth[slot, node] = tables.depth[slot, parent] + 1 if node else 0
            tables.ancestors[slot, node] = (tables.ancestors[slot, parent] if node else 0) | 1 << node
    slot, lead, nodes, before, prompt = torch.tensor(requests, dtype=torch.int32).T
    rows = lead + nodes
    prompt_lens = torch.zeros(len(trees), dtype=torch.int32)
    prompt_lens[slot.long()] = prompt
    total = int(rows.sum())
    out = TreeRows.empty(total, len(requests), WIDTH, "cpu")
    for part in (out.ancestors, out.parents):
        part.fill_(UNTOUCHED)
    return dict(
        slot_of=slot.contiguous(),
        row_bounds=torch.nn.functional.pad(rows.cumsum(0), (1, 0)).int(),
        node_bounds=torch.nn.functional.pad(nodes.cumsum(0), (1, 0)).int(),
        seq_lens=before + nodes,
        prompt_lens=prompt_lens,
        positions=torch.full((total,), UNTOUCHED, dtype=torch.int64),
        tables=tables,
        out=out,
    )


def test_a_tree_behind_a_row_and_a_chain_of_placeholders():
    args = problem([(1, 1, 4, 20, 5), (0, 0, 2, 3, 9)], [[-1], [-1, 0, 0, 2]])
    tree_rows_torch(**args)
    out = args["out"]
    assert args["positions"].tolist() == [UNTOUCHED, 20, 21, 21, 22, 3, 4]
    assert out.ancestors.tolist() == [0b1, 0b11, 0b111, 0b1011, 0b11011, 0b1, 0b11]
    assert out.parents[:6].tolist() == [-1, 0, 0, 2, -1, -1]
    assert out.back.tolist() == [0, 0, 0, 1, 1, 0, 0]
    assert out.context_lens.tolist() == [19, 3] and out.roots.tolist() == [20, 3]


def test_rows_of_a_long_prompt_have_no_masks():
    args = problem([(0, 7, 1, 30, 9)], [[-1]])
    tree_rows_torch(**args)
    assert args["out"].ancestors.tolist() == [UNTOUCHED] * 8
    assert args["positions"].tolist() == [UNTOUCHED] * 7 + [30] and args["out"].context_lens.tolist() == [23]


@st.composite
def steps(draw):
    trees = []
    for _ in range(4):
        trees.append([-1] + [draw(st.integers(0, node - 1)) for node in range(1, WIDTH)])
    slots = draw(st.permutations(range(4)))[: draw(st.integers(1, 4))]
    count = st.integers(1, WIDTH)
    return [(s, draw(st.integers(0, 8)), draw(count), draw(st.integers(8, 40)), draw(st.integers(1, 40))) for s in slots], trees


@pytest.mark.kernel
@given(step=steps())
@settings(max_examples=40)
def test_kernel_agrees_with_torch_path(on_device, step):
    args, expected = on_device(problem(*step)), problem(*step)
    tree_rows_triton(**args)
    tree_rows_torch(**expected)
    assert torch.equal(args["positions"].cpu(), expected["positions"])
    for part, other in zip(args["out"], expected["out"]):
        assert torch.equal(part.cpu(), other)
