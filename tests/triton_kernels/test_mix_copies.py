"""mix_copies: a copy is believed by as many tokens as match, and what the draft says keeps the rest."""

import pytest
import torch

from vllm_specflash.triton_kernels.find_copies import LONGEST, Copies
from vllm_specflash.triton_kernels.mix_copies import WEIGHTS, mix_copies, mix_copies_torch, mix_copies_triton


def arguments(requests=3, levels=4, width=5, depth=6):
    """The draft's tokens are even and ascending; copies begin with one of them and go on with one that is none, by turns."""
    generator = torch.Generator().manual_seed(0)
    tokens = 2 * torch.arange(requests * levels * width).view(requests, levels, width)
    first = torch.rand(requests, width + 2, generator=generator).softmax(-1)[:, :width].contiguous()
    following = torch.rand(requests, levels - 1, width, width + 2, generator=generator).softmax(-1)[..., :width].contiguous()
    copied = torch.full((requests, depth), 1)
    copied[:, 0:levels:2] = tokens[:, ::2, 1]
    return tokens, first, following, Copies(copied, torch.tensor([2, 0, LONGEST])[:requests].int()), torch.tensor(WEIGHTS)


def test_a_candidate_gains_what_the_others_lose_and_a_stranger_takes_the_last_place():
    tokens, first, following, copies, weights = arguments()
    mixed_tokens, mixed_first, mixed_following = mix_copies(tokens, first, following, copies, weights)
    w = weights[2]
    expected = first[0] * (1 - w)
    expected[1] += w
    torch.testing.assert_close(mixed_first[0], expected)
    # The copy's second token is no candidate: it is believed after the copy's first, and nobody says anything of it after the others.
    assert mixed_tokens[0, 1].tolist() == [*tokens[0, 1, :4].tolist(), 1]
    w = weights[3]
    expected = torch.cat((following[0, 0, :, :4], torch.zeros(5, 1)), 1)
    expected[1] *= 1 - w
    expected[1, 4] = w
    torch.testing.assert_close(mixed_following[0, 0], expected)
    # Its third is one again: after the second alone is it more than the draft says.
    w = weights[4]
    torch.testing.assert_close(mixed_following[0, 1, :4], following[0, 1, :4])
    torch.testing.assert_close(mixed_following[0, 1, 4, 1], (1 - w) * following[0, 1, 4, 1] + w)


def test_beyond_what_the_draft_says_there_is_the_copy_alone():
    tokens, first, following, copies, weights = arguments()
    copies.matched[0] = 4
    mixed_tokens, _, mixed_following = mix_copies(tokens, first, following, copies, weights)
    assert mixed_tokens.shape == (3, 6, 5) and mixed_following.shape == (3, 5, 5, 5)
    for level in (4, 5):
        assert mixed_tokens[0, level].tolist() == [0, 0, 0, 0, 1]
        expected = torch.zeros(5, 5)
        expected[4, 4] = weights[4 + level]
        assert torch.equal(mixed_following[0, level - 1], expected)
    assert mixed_following[2, 4, 4, 4] == weights[LONGEST]


def test_a_copy_goes_deeper_than_the_draft_while_all_of_it_is_likely_enough():
    tokens, first, following, copies, weights = arguments(depth=16)
    assert mix_copies(tokens, first, following, copies, weights)[2].shape[1] == 15
    # 0.33 * 0.51 * 0.60 * 0.64 is the fourth level's and more than WORTH, times 0.70 the fifth's is 0.045.
    short = copies._replace(matched=torch.tensor([2, 0, 1]).int())
    assert mix_copies(tokens, first, following, short, weights)[2].shape[1] == 3
    # 0.51 * 0.60 * 0.64 * 0.70 * 0.72 * 0.76 * 0.77 = 0.058, the eighth's is 0.045.
    longer = copies._replace(matched=torch.tensor([2, 0, 3]).int())
    _, _, mixed = mix_copies(tokens, first, following, longer, weights)
    assert mixed.shape[1] == 6 and mixed[2, 5].any() and not mixed[0, 3:].any()


def test_a_request_without_a_copy_keeps_what_the_draft_says():
    tokens, first, following, copies, weights = arguments()
    mixed_tokens, mixed_first, mixed_following = mix_copies(tokens, first, following, copies, weights)
    assert torch.equal(mixed_tokens[1, :4], tokens[1]) and torch.equal(mixed_first[1], first[1])
    assert torch.equal(mixed_following[1, :3], following[1]) and not mixed_following[1, 3:].any()
    none = copies._replace(matched=torch.zeros_like(copies.matched))
    assert mix_copies_torch(tokens, first, following, none, weights)[2] is following


@pytest.mark.kernel
@pytest.mark.parametrize("levels, width, depth", [(4, 5, 6), (5, 32, 16), (2, 6, 16), (3, 7, 3), (1, 4, 1), (1, 4, 3)])
def test_kernel_agrees_with_torch_path(on_device, levels, width, depth):
    tokens, first, following, copies, weights = arguments(3, levels, width, depth)
    copies.matched[2] = 3 if levels == 2 else LONGEST
    # What drafts without a transition say is the same after every token: a view with a stride of 0.
    for following in (following, following[:, :, :1].expand(-1, -1, width, -1)):
        args = tokens, first, following
        on = [on_device(part) for part in args]
        ours = mix_copies_triton(*on, Copies(*map(on_device, copies)), on_device(weights))
        for part, expected, name in zip(ours, mix_copies_torch(*args, copies, weights), ("tokens", "first", "following")):
            part, beyond = part.cpu(), 0
            if name != "first":
                part, beyond = part[:, : expected.shape[1]], part[:, expected.shape[1] :]
            torch.testing.assert_close(part, expected, atol=1e-6, rtol=1e-5)
            assert name == "tokens" or not torch.as_tensor(beyond).any()
