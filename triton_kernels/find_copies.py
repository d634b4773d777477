"""Where a text has read before as it reads at its end, and what followed there: n-gram lookup (arXiv 2311.08252, 2304.04487).

Of a text of `end` tokens x_0 .. x_(end - 1), a place j < end - 1 matches in so many tokens that lead up to it:

    matched(j) = the largest m <= LONGEST with x_(j - k) = x_(end - 1 - k) for all k < m
    best       = the latest j of those that match longest
    copied(i)  = x_(best + 1 + i mod (end - 1 - best))        what followed; a text that repeats itself goes on repeating

Some prompts hold tokens that the target has no embedding for (a picture's, in some models): copied ones are put into its vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._triton import launch, launches, tl, triton
from .loops import compiled

# Tokens compared at most: of longer matches all are as good.
LONGEST = 16
# Places that a program looks at together.
BLOCK = 1024


class Copies(NamedTuple):
    """What R requests' texts say may come next."""

    tokens: Tensor
    """[R, L] int64, -1 where nothing matches."""
    matched: Tensor
    """[R] int32, tokens before them that match, from 0 to LONGEST."""


@compiled("void(int32[:, :], int64[:], int64[:], int64, int64[:, ::1], int32[::1])")
def _find(texts, slots, ends, vocab_size, copied, lengths):
    for request in range(len(slots)):
        # A slot may hold no text at all.
        end, best, longest = min(ends[request], texts.shape[1]), 0, 0
        text = texts[slots[request] if end > 1 else 0]
        for place in range(end - 2, -1, -1):
            matched = 0
            while matched < LONGEST and matched <= place and text[place - matched] == text[end - 1 - matched]:
                matched += 1
            if matched > longest:
                best, longest = place, matched
            if matched == LONGEST:
                break
        lengths[request] = longest
        for i in range(copied.shape[1]):
            copied[request, i] = min(max(text[best + 1 + i % (end - 1 - best)], 0), vocab_size - 1) if longest else -1


def find_copies_torch(tokens: Tensor, slot_of: Tensor, ends: Tensor, depth: int, vocab_size: int) -> Copies:
    """The path for CPUs."""
    found = Copies(torch.empty(len(slot_of), depth, dtype=torch.int64), torch.empty(len(slot_of), dtype=torch.int32))
    _find(tokens.numpy(), slot_of.long().numpy(), ends.long().numpy(), vocab_size, *(part.numpy() for part in found))
    return found


@triton.jit(do_not_specialize=["stride_tokens", "depth", "vocab_size"])
def find_copies_kernel(
    tokens, slot_of, ends, out_tokens, out_matched, stride_tokens, depth, vocab_size,
    LONGEST: tl.constexpr, BLOCK: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """One request per program, BLOCK places at once. A place's score has its matched tokens above, and where it is below."""
    request = tl.program_id(0).to(tl.int64)
    end = tl.load(ends + request)
    text = tokens + tl.load(slot_of + request).to(tl.int64) * stride_tokens
    best = tl.full([], 0, tl.int64)
    for first in range(0, end - 1, BLOCK):
        j = first + tl.arange(0, BLOCK)
        alike = j < end - 1
        matched = tl.zeros([BLOCK], tl.int64)
        for k in tl.static_range(LONGEST):
            alike = alike & (j >= k)
            own = tl.load(text + end - 1 - k, mask=end > k, other=-1)
            alike = alike & (tl.load(text + j - k, mask=alike, other=-1) == own)
            matched += alike.to(tl.int64)
        best = tl.maximum(best, tl.max((matched << 32) | j.to(tl.int64), 0))
    matched = (best >> 32).to(tl.int32)
    place = (best & 0xFFFFFFFF).to(tl.int32)
    i = tl.arange(0, BLOCK_L)
    source = place + 1 + i % tl.maximum(end - 1 - place, 1)
    known = i < tl.where(matched > 0, depth, 0)
    copied = tl.minimum(tl.maximum(tl.load(text + source, mask=known, other=0), 0), vocab_size - 1)
    tl.store(out_tokens + request * depth + i, tl.where(known, copied, -1).to(tl.int64), mask=i < depth)
    tl.store(out_matched + request, matched)


def find_copies_triton(tokens: Tensor, slot_of: Tensor, ends: Tensor, depth: int, vocab_size: int) -> Copies:
    """Launcher of the kernel: one launch. Compiled once per power of two that `depth` fits in."""
    requests, device = len(slot_of), tokens.device
    out = Copies(
        torch.empty(requests, depth, dtype=torch.int64, device=device), torch.empty(requests, dtype=torch.int32, device=device)
    )
    launch(
        find_copies_kernel, (requests,), tokens, slot_of, ends, *out, tokens.stride(0), depth, vocab_size,
        LONGEST=LONGEST, BLOCK=BLOCK, BLOCK_L=triton.next_power_of_2(depth), num_warps=4,
    )  # fmt: skip
    return out


def find_copies(tokens: Tensor, slot_of: Tensor, ends: Tensor, depth: int, vocab_size: int) -> Copies:
    """What may come next in R requests, L = depth tokens each, by their own texts.

    tokens [S, max_tokens] int32, rows contiguous, texts by slot; slot_of [R] int32 or int64; ends [R] int32, tokens of each text so far:
    with fewer than two, nothing matches, and its slot is not looked at; vocab_size: of the target.
    """
    find = find_copies_triton if launches(tokens) else find_copies_torch
    return find(tokens, slot_of, ends, depth, vocab_size)
