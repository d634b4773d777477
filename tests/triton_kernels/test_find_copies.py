"""find_copies: the latest of the places that match longest, and what followed it; nobody looks beyond a text's end."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.triton_kernels.find_copies import LONGEST, find_copies, find_copies_torch, find_copies_triton

VOCABULARY = 100


def by_hand(text: list[int], depth: int) -> tuple[list[int], int]:
    """The definition, place by place."""
    def matched(j):
        m = 0
        while m < LONGEST and m <= j and text[j - m] == text[-1 - m]:
            m += 1
        return m

    longest, best = max(((matched(j), j) for j in range(len(text) - 1)), default=(0, -1))
    if not longest:
        return [-1] * depth, 0
    said = list(text)
    for _ in range(depth):
        said.append(said[best + 1 + len(said) - len(text)])
    return [min(max(token, 0), VOCABULARY - 1) for token in said[len(text) :]], longest


def run(op, texts: list[list[int]], depth: int, to=lambda x: x):
    """Texts in slots from the last on; what lies behind a text's end reads on like it does, and must not count."""
    longest = max(map(len, texts)) + 4
    table = torch.full((len(texts), longest), -7, dtype=torch.int32)
    for slot, text in enumerate(reversed(texts)):
        table[slot, : len(text)] = torch.tensor(text)
        table[slot, len(text) :] = text[-1] if text else 3
    slots, ends = torch.arange(len(texts)).flip(0), torch.tensor([len(text) for text in texts], dtype=torch.int32)
    tokens, matched = op(to(table), to(slots), to(ends), depth, VOCABULARY)
    return [(row, length) for row, length in zip(tokens.tolist(), matched.tolist())]


@settings(max_examples=200)
@given(st.lists(st.lists(st.integers(-1, 3), max_size=40), min_size=1, max_size=3), st.integers(1, 20))
def test_torch_path_is_the_definition(texts, depth):
    assert run(find_copies_torch, texts, depth) == [by_hand(text, depth) for text in texts]


def test_the_latest_of_equal_matches_a_longer_one_before_it_and_a_text_that_repeats_itself():
    assert run(find_copies, [[1, 9, 1, 8, 1]], 2) == [([8, 1], 1)]
    assert run(find_copies, [[5, 1, 9, 1, 8, 5, 1]], 3) == [([9, 1, 8], 2)]
    assert run(find_copies, [[4, 7, 4, 7, 4]], 5) == [([7, 4, 7, 4, 7], 3)]
    assert run(find_copies, [[2] * 40, [200, 6, 200], [3], []], 2) == [([2, 2], LONGEST), ([6, 99], 1), ([-1, -1], 0), ([-1, -1], 0)]


def test_on_cpus_a_text_ends_where_its_slot_does():
    slots, ends = torch.tensor([0]), torch.tensor([5])
    table = torch.tensor([[1, 2, 1, 9, 9]], dtype=torch.int32)
    assert find_copies_torch(table[:, :3], slots, ends, 2, VOCABULARY).tokens.tolist() == [[2, 1]]


@pytest.mark.kernel
@pytest.mark.parametrize("depth", [1, 5, 16])
def test_kernel_agrees_with_torch_path(on_device, depth):
    generator = torch.Generator().manual_seed(depth)
    # One in two blocks, whose best place is in the first, one within a block, and such as have no match or nothing to look at.
    long = torch.randint(4, 30, (1500,), generator=generator).tolist()
    long[20:40] = long[-20:] = range(60, 80)
    texts = [long, torch.randint(0, 3, (300,), generator=generator).tolist(), [1, 2, 3], [5], [], [150, 8, 150]]
    assert run(find_copies_triton, texts, depth, on_device) == run(find_copies_torch, texts, depth)
    assert run(find_copies_torch, texts, depth)[0][1] == LONGEST
