"""The likeliest token of many rows at once, as fast as a CPU reads them: a tree asks for one at every node."""

import math

import torch
from torch import Tensor

# Numbers that one maximum is taken of at first.
BLOCK = 512


def greedy_tokens(logits: Tensor) -> Tensor:
    """`logits.float().argmax(-1)` of logits [N, V] on a CPU, the first of equal ones, at a fraction of its time: torch finds maxima
    with vector instructions, but not where they are.
    """
    rows, size = logits.shape
    # With fewer blocks than this there is nothing to gain.
    block = math.gcd(size, BLOCK)
    if block < BLOCK // 8:
        return logits.float().argmax(-1)
    blocks = logits.float().view(rows, -1, block)
    first = blocks.amax(-1).argmax(-1)
    return first * block + blocks[torch.arange(rows), first].argmax(-1)
