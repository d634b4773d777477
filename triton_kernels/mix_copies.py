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

# By matched tokens, the weights that make likeliest what SmolLM2-135M-Instruct said in 250 answers, most of them to prompts that it wrote itself,
# beside the draft shipped then: smoothed from docs/results/copy-weights.json, which `python -m vllm_specflash.lab.bench.copy_trust` wrote.
WEIGHTS = (0.0, 0.07, 0.33, 0.51, 0.60, 0.64, 0.70, 0.72, 0.76, 0.77, 0.78, 0.79, 0.80, 0.80, 0.81, 0.82, 0.95)
# Deeper than the draft, a token less likely than this is not worth a level.
WORTH = 0.05


def copy_weights(matched: np.ndarray, depth: int, weights: np.ndarray) -> np.ndarray:
    """What the tokens of copies that matched in [R] tokens weigh, [R, depth]; those of none weigh nothing."""
    behind = np.minimum(matched[:, None] + np.arange(depth), LONGEST)
    return np.where(matched[:, None] > 0, weights[behind], weights.dtype.type(0))


def mix_copies_torch(
    tokens: Tensor, first: Tensor, following: Tensor, copies: Copies, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The path for CPUs, in numpy; what was given is returned where nothing matches."""
    matched = copies.matched.numpy()
    if not matched.any():
        return tokens, first, following
    (requests, levels, width), request = tokens.shape, np.flatnonzero(matched)
    weight = copy_weights(matched[request], copies.tokens.shape[1], weights.numpy())
    worth = weight.cumprod(1) >= WORTH
    worth[:, :levels] = True
    # No deeper than any of them goes: each level costs the search for the best tree its time.
    depth = int(worth.sum(1).max())
    copied, weight = copies.tokens.numpy()[request, :depth], (weight * worth)[:, :depth]
    out_tokens = np.zeros((requests, depth, width), np.int64)
    out_following = np.zeros((requests, depth - 1, width, width), np.float32)
    out_tokens[:, :levels], out_following[:, : levels - 1] = tokens.numpy(), following.numpy()
    out_first = first.numpy().copy()

    level, at = np.arange(depth), request[:, None]
    same = out_tokens[request] == copied[:, :, None]
    same[:, levels:] = False
    found = same.any(2)
    place = np.where(found, same.argmax(2), width - 1)
    out_tokens[at, level, place] = copied
    # What was said of the token whose place was taken says nothing of this one.
    out_first[request, place[:, 0]] *= found[:, 0]
    out_following[at, level[:-1], :, place[:, 1:]] *= found[:, 1:, None]
    out_first[request] *= 1 - weight[:, :1]
    out_first[request, place[:, 0]] += weight[:, 0]
    out_following[at, level[:-1], place[:, :-1]] *= 1 - weight[:, 1:, None]
    out_following[at, level[:-1], place[:, :-1], place[:, 1:]] += weight[:, 1:]
    return torch.from_numpy(out_tokens), torch.from_numpy(out_first), torch.from_numpy(out_following)


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
