"""The likeliest token of many rows at once, as fast as a CPU reads them: a tree asks for one at every node."""

import math

import torch
from torch import Tensor

# Columns of a block: the maximum of each is taken first, and looked for in the best one.
BLOCK = 512
# Rows at a time: their logits in float32 stay in the cache, and are no memory that the system has to hand out anew in every step.
ROWS = 32


def greedy_tokens(logits: Tensor) -> Tensor:
    """`logits.float().argmax(-1)` of logits [N, V] on a CPU, the first of equal ones, at a fraction of its time: torch finds maxima
    with vector instructions, but not where they are.
    """
    rows, size = logits.shape
    # With smaller blocks than that there is nothing to gain.
    block = math.gcd(size, BLOCK)
    if block < BLOCK // 8:
        return logits.float().argmax(-1)
    found = torch.empty(rows, dtype=torch.int64)
    for first in range(0, rows, ROWS):
        blocks = logits[first : first + ROWS].float().view(-1, size // block, block)
        best = blocks.amax(-1).argmax(-1)
        found[first : first + ROWS] = best * block + blocks[torch.arange(len(best)), best].argmax(-1)
    return found
