"""Candidates and their chances once a copy is believed as far as it deserves: a mixture of what the draft says and of what was read before.

A copy (find_copies.py) that matched in m tokens is right with chance w = WEIGHTS[m] where the draft says nothing of it; its i-th token
stands behind m + i that match. At each level, for candidates b of the level before and c of this one, the copy's being b' and c':

    first'(c)        = (1 - w) first(c) + w [c = c']
    following'(b, c) = (1 - w) following(b, c) + w [c = c']   for b = b', else following(b, c)

A token that is no candidate takes the place of the last one. Levels that the draft says nothing of have the copy alone, and end where the
chance that all of it is right, the product of its weights, falls below WORTH.
"""

import numpy as np
import torch
from torch import Tensor

from ._triton import launch, launches, tl, triton
from .find_copies import LONGEST, Copies
from .loops import compiled

# By matched tokens, the weights that make likeliest what SmolLM2-135M-Instruct said in 250 answers, most of them to prompts that it wrote itself,
# beside the draft shipped then: smoothed from docs/results/copy-weights.json, which `python -m vllm_specflash.lab.bench.copy_trust` wrote.
WEIGHTS = (0.0, 0.07, 0.33, 0.51, 0.60, 0.64, 0.70, 0.72, 0.76, 0.77, 0.78, 0.79, 0.80, 0.80, 0.81, 0.82, 0.95)
# Deeper than the draft, a token less likely than this is not worth a level.
WORTH = 0.05


def copy_weights(matched: np.ndarray, depth: int, weights: np.ndarray) -> np.ndarray:
    """What the tokens of copies that matched in [R] tokens weigh, [R, depth]; those of none weigh nothing."""
    behind = np.minimum(matched[:, None] + np.arange(depth), LONGEST)
    return np.where(matched[:, None] > 0, weights[behind], weights.dtype.type(0))


@compiled(
    "int64(int64[:, :, :], float32[:, :], float32[:, :, :, :], int64[:, :], int32[:], float32[:],"
    " int64[:, :, ::1], float32[:, ::1], float32[:, :, :, ::1])"
)
def _mix(tokens, first, following, copied, matched, weights, out_tokens, out_first, out_following):
    """Fills the mixture, and returns how many of its levels matter: each costs the search for the best tree its time."""
    (requests, levels, width), depth = tokens.shape, tokens.shape[1]
    for request in range(requests):
        for c in range(width):
            out_first[request, c] = first[request, c]
        for level in range(copied.shape[1]):
            for c in range(width):
                out_tokens[request, level, c] = tokens[request, level, c] if level < levels else 0
            for b in range(width if level else 0):
                for c in range(width):
                    out_following[request, level - 1, b, c] = following[request, level - 1, b, c] if level < levels else np.float32(0)
        length, right, before = matched[request], np.float32(1), 0
        for level in range(copied.shape[1] if length else 0):
            weight = weights[min(length + level, len(weights) - 1)]
            right *= weight
            if level >= levels and right < np.float32(WORTH):
                weight = np.float32(0)
            else:
                depth = max(depth, level + 1)
            place, token = 0, copied[request, level]
            while place < width and (level >= levels or tokens[request, level, place] != token):
                place += 1
            if place == width:
                # What was said of the token whose place is taken says nothing of this one.
                place -= 1
                out_tokens[request, level, place] = token
                if level == 0:
                    out_first[request, place] = 0
                else:
                    for b in range(width):
                        out_following[request, level - 1, b, place] = 0
            after = out_first[request] if level == 0 else out_following[request, level - 1, before]
            for c in range(width):
                after[c] *= np.float32(1) - weight
            after[place] += weight
            before = place
    return depth


def mix_copies_torch(
    tokens: Tensor, first: Tensor, following: Tensor, copies: Copies, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The path for CPUs; what was given is returned where nothing matches."""
    if not copies.matched.numpy().any():
        return tokens, first, following
    (requests, _, width), depth = tokens.shape, copies.tokens.shape[1]
    out = (
        tokens.new_empty(requests, depth, width), first.new_empty(requests, width), first.new_empty(requests, depth - 1, width, width)
    )
    depth = _mix(*(part.numpy() for part in (tokens, first, following, *copies, weights, *out)))
    return out[0][:, :depth], out[1], out[2][:, : depth - 1]


@triton.jit
def copy_place(own, copied, some, c, C: tl.constexpr):
    """Where among a level's candidates `own` its copied token is, C - 1 where it is none of them, -1 where nothing matches; and whether
    another token had that place."""
    place = tl.min(tl.where(own == copied, c, C))
    return tl.where(some, tl.minimum(place, C - 1), -1), some & (place >= C)


@triton.jit
def mix_copies_kernel(
    tokens, first, following, copied, matched, weights, out_tokens, out_first, out_following,
    stride_tokens, stride_first, stride_request, stride_level, stride_before, LEVELS, DEPTH,
    C: tl.constexpr, BLOCK: tl.constexpr, LONGEST: tl.constexpr, WORTH: tl.constexpr,
):  # fmt: skip
    """One level of one request: its candidates, and all pairs of them with those of the level before."""
    request, level = tl.program_id(0).to(tl.int64), tl.program_id(1)
    length = tl.load(matched + request)
    some = length > 0
    weight = tl.load(weights + tl.minimum(length + level, LONGEST))
    right = 1.0
    for before in range(0, level + 1):
        right *= tl.load(weights + tl.minimum(length + before, LONGEST))
    weight = tl.where(some & ((level < LEVELS) | (right >= WORTH)), weight, 0.0)
    c = tl.arange(0, BLOCK)
    # As many candidates as the draft has at a level; no token is -2.
    width = tl.where(level < LEVELS, C, 0)
    said_tokens = tokens + request * stride_tokens + level * C + c
    token = tl.load(copied + request * DEPTH + level)
    place, replaces = copy_place(tl.load(said_tokens, mask=c < width, other=-2), token, some, c, C)
    own = tl.load(said_tokens, mask=c < width, other=0)
    tl.store(out_tokens + (request * DEPTH + level) * C + c, tl.where(c == place, token, own), mask=c < C)
    # What was said of the token whose place was taken says nothing of this one.
    kept = tl.where(replaces & (c == place), 0.0, 1.0)
    gained = tl.where(c == place, weight, 0.0)
    if level == 0:
        alone = tl.load(first + request * stride_first + c, mask=c < C, other=0.0) * kept
        tl.store(out_first + request * C + c, alone * (1.0 - weight) + gained, mask=c < C)
    else:
        width_before = tl.where(level - 1 < LEVELS, C, 0)
        own = tl.load(said_tokens - C, mask=c < width_before, other=-2)
        above, _ = copy_place(own, tl.load(copied + request * DEPTH + level - 1), some, c, C)
        b, a = c[:, None], c[None, :]
        pair = following + request * stride_request + (level - 1) * stride_level + b * stride_before + a
        said = tl.load(pair, mask=(b < C) & (a < width), other=0.0) * kept[None, :]
        mixed = tl.where(b == above, said * (1.0 - weight) + gained[None, :], said)
        tl.store(out_following + ((request * (DEPTH - 1) + level - 1) * C + b) * C + a, mixed, mask=(b < C) & (a < C))


def mix_copies_triton(
    tokens: Tensor, first: Tensor, following: Tensor, copies: Copies, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Launcher of the kernel: one launch."""
    (requests, levels, width), depth = tokens.shape, copies.tokens.shape[1]
    out = (
        tokens.new_empty(requests, depth, width), first.new_empty(requests, width), first.new_empty(requests, depth - 1, width, width)
    )
    launch(
        mix_copies_kernel, (requests, depth), tokens, first, following, *copies, weights, *out,
        tokens.stride(0), first.stride(0), *following.stride()[:3], levels, depth,
        C=width, BLOCK=triton.next_power_of_2(width), LONGEST=LONGEST, WORTH=WORTH, num_warps=4,
    )  # fmt: skip
    return out


def mix_copies(
    tokens: Tensor, first: Tensor, following: Tensor, copies: Copies, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [R, D, C], chances [R, C] and [R, D - 1, C, C] of the candidates at D levels, the copies among them.

    tokens [R, L, C] int64, first [R, C] and following [R, L - 1, C, C] float32, contiguous in the last dimension: what the draft says, L at
    most D; copies: of D tokens; weights [LONGEST + 1] float32, WEIGHTS on the device. The path for CPUs returns fewer levels where no copy
    goes deeper, and what it was given where nothing matches.
    """
    mix = mix_copies_triton if launches(tokens) else mix_copies_torch
    return mix(tokens, first, following, copies, weights)
