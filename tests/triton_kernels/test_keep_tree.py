"""keep_tree: the right tokens become the draft, and a tree lies in its request's slot alone."""

import pytest
import torch

from vllm_specflash.triton_kernels.best_tree import BINS, best_tree_torch
from vllm_specflash.triton_kernels.keep_tree import KeptDrafts, keep_tree, keep_tree_triton
from vllm_specflash.triton_kernels.tree_rows import TreeTables

SLOTS, NODES, DEPTH, WIDTH = 6, 9, 3, 4


def tree_of(requests: int, deepest: int = DEPTH):
    first, following = torch.rand(requests, WIDTH), torch.rand(requests, DEPTH - 1, WIDTH, WIDTH)
    limit = torch.full((requests,), deepest, dtype=torch.int32)
    limit[0] = DEPTH
    return best_tree_torch(first, following, NODES, limit, torch.zeros(requests, dtype=torch.bool), torch.ones(BINS + 1))


def room(device="cpu") -> KeptDrafts:
    return KeptDrafts(
        torch.full((SLOTS, NODES), -7, device=device), torch.full((SLOTS, NODES), -7.0, device=device),
        TreeTables.chains(SLOTS, NODES + 1, device), torch.full((SLOTS, NODES + 1), -7.0, device=device),
    )  # fmt: skip


def parts(kept: KeptDrafts) -> list[torch.Tensor]:
    return [kept.drafts, kept.confidence, *kept.trees, kept.chances]


def test_drafts_are_the_nodes_tokens_and_slots_hold_the_trees():
    tree, tokens, slots = tree_of(2), torch.randint(0, 99, (2, DEPTH, WIDTH)), torch.tensor([4, 1])
    kept, untouched = room(), room()
    keep_tree(tree, tokens, slots, kept)
    for request, slot in enumerate(slots.tolist()):
        wanted = [int(tokens[request, d - 1, c]) for d, c in zip(tree.depth[request], tree.candidate[request])]
        assert kept.drafts[request].tolist() == wanted
        assert torch.equal(kept.trees.parents[slot], tree.parents_with_root[request])
        assert torch.equal(kept.trees.ancestors[slot], tree.ancestors[request])
        assert kept.chances[slot, 0] == -7 and torch.equal(kept.chances[slot, 1:], tree.conditional[request])
        # Multiplied up, confidences are the chances that the tree was chosen by.
        torch.testing.assert_close(kept.confidence[request].cumprod(0), tree.chance[request])
    for part, before in zip(parts(kept)[2:], parts(untouched)[2:]):
        assert torch.equal(part[[0, 2, 3, 5]], before[[0, 2, 3, 5]])
    assert torch.equal(kept.drafts[2:], untouched.drafts[2:])


def test_what_fills_a_list_is_nobodys_child():
    """A padding node holds a candidate's token; accepted, it would be followed by what the target says after the nodes before it."""
    chain = torch.ones(1, dtype=torch.bool)
    first, following = torch.rand(1, WIDTH), torch.rand(1, DEPTH - 1, WIDTH, WIDTH)
    tree = best_tree_torch(first, following, NODES, torch.tensor([DEPTH], dtype=torch.int32), chain, torch.ones(BINS + 1))
    kept = room()
    keep_tree(tree, torch.randint(0, 99, (1, DEPTH, WIDTH)), torch.tensor([2]), kept)
    assert kept.trees.parents[2].tolist() == [-1, *range(DEPTH), *[-1] * (NODES - DEPTH)]


@pytest.mark.kernel
@pytest.mark.parametrize("deepest", [DEPTH, 1, 0], ids=["whole", "cut short", "nothing drafted"])
def test_kernel_agrees_with_torch_path(on_device, device, deepest):
    tree, tokens, slots = tree_of(3, deepest), torch.randint(0, 99, (3, DEPTH, WIDTH)), torch.tensor([5, 0, 2])
    kept, expected = room(device), room()
    keep_tree_triton(type(tree)(*(on_device(part) for part in tree)), on_device(tokens), on_device(slots), kept)
    keep_tree(tree, tokens, slots, expected)
    for part, wanted in zip(parts(kept), parts(expected)):
        torch.testing.assert_close(part.cpu(), wanted)
