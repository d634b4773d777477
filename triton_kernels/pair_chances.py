"""Chances of the candidates at each position given the candidate before: the draft's own, moved by a transition.

Of K positions with C candidates each, p_i(c) is the chance of candidate c at position i by the draft's states alone, and
delta_i(b, c) what the transition adds to the logit of c after candidate b of the position before. What lies outside the candidates
keeps its chance:

    following_i(b, c) = p_i(c) e^delta_i(b, c) / (sum_c' p_i(c') e^delta_i(b, c') + 1 - sum_c' p_i(c'))        NaN is no chance
"""

import numpy as np
import torch
from torch import Tensor

from ._triton import launch, launches, tl, triton
from .loops import compiled


@compiled("void(float32[:, :, :], float32[:, :, :, ::1], float32[:, ::1])")
def _normalise(chance, following, first):
    """chance [R, K, C]; following [R, K - 1, C, C], e^delta that becomes the result; first [R, C]."""
    requests, positions, width = chance.shape
    own = np.empty(width, np.float32)
    for request in range(requests):
        for position in range(positions):
            outside = np.float32(1)
            for c in range(width):
                p = chance[request, position, c]
                # NaN is no chance.
                own[c] = p if p == p else np.float32(0)
                outside -= own[c]
                if position == 0:
                    first[request, c] = own[c]
            if position == 0:
                continue
            for b in range(width):
                pairs, total = following[request, position - 1, b], outside
                for c in range(width):
                    pairs[c] *= own[c]
                    total += pairs[c]
                for c in range(width):
                    p = pairs[c] / total
                    pairs[c] = p if p == p else np.float32(0)


def pair_chances_torch(chance: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """The path for CPUs."""
    following, first = delta.detach().to(torch.float32, copy=True).exp_(), chance.new_empty(chance.shape[0], chance.shape[2])
    _normalise(chance.detach().numpy(), following.numpy(), first.numpy())
    return first, following


@triton.jit
def pair_chances_kernel(
    chance, delta, out_first, out_following, POSITIONS: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """One position of one request, all pairs of its candidates with those before."""
    request, i = tl.program_id(0).to(tl.int64), tl.program_id(1)
    b, c = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = c < C
    if i == 0:
        own = tl.load(chance + request * POSITIONS * C + c, mask=inside, other=0.0)
        tl.store(out_first + request * C + c, tl.where(own == own, own, 0.0), mask=inside)
    own = tl.load(chance + (request * POSITIONS + i + 1) * C + c, mask=inside, other=0.0)
    own = tl.where(own == own, own, 0.0)
    pair = (request * (POSITIONS - 1) + i) * C * C + b * C + c
    both = inside & (b < C)
    weight = own * tl.exp(tl.load(delta + pair, mask=both, other=0.0).to(tl.float32))
    total = tl.sum(weight, 1, keep_dims=True) + 1.0 - tl.sum(own, 1, keep_dims=True)
    following = weight / total
    tl.store(out_following + pair, tl.where(following == following, following, 0.0), mask=both)


def pair_chances_triton(chance: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Launcher of the kernel: one launch."""
    requests, positions, width = chance.shape
    first = chance.new_empty(requests, width)
    following = chance.new_empty(requests, positions - 1, width, width)
    launch(
        pair_chances_kernel, (requests, positions - 1), chance, delta, first, following, POSITIONS=positions, C=width,
        BLOCK=triton.next_power_of_2(width), num_warps=4,
    )  # fmt: skip
    return first, following


def pair_chances(chance: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Chances of the first position's candidates [R, C], and of the later ones' after each before [R, K - 1, C, C], float32.

    chance [R, K, C] float32, K at least 2; delta [R, K - 1, C, C] of any float dtype; both contiguous.
    """
    chances = pair_chances_triton if launches(chance) else pair_chances_torch
    return chances(chance, delta)
