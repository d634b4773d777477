"""Drafts accepted by chance, whatever the target says: how fast an engine is with a draft that good. Answers then mean nothing.

For benchmarks alone (`specflash bench --synthetic-acceptance`); the engine refuses it elsewhere. P_d is the chance that the tokens of the first
d depths are all accepted; at a node of depth d whose path was accepted, its first child is then taken with chance P_(d+1) / P_d.
"""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from vllm_specflash.config import MAX_SPECULATIVE_TOKENS, SpecFlashError

# Set by the benchmark in the processes of its engines.
ALLOWED = "SPECFLASH_BENCH"
SYNTHETIC_WARNING = "SpecFLASH ACCEPTS DRAFTS BY CHANCE (synthetic_acceptance): this engine's answers mean nothing."
# What each further candidate gets of the chance that the one before it left.
SHARE = 0.5


def refuse_outside_benchmarks(rates: Sequence[float] | None) -> None:
    """
    Raises:
        SpecFlashError: acceptance by chance was asked for where answers matter.
    """
    if rates is not None and os.environ.get(ALLOWED) != "1":
        raise SpecFlashError(
            "synthetic_acceptance makes answers meaningless and is for `specflash bench --synthetic-acceptance` alone: leave it out."
        )


def conditional(rates: Sequence[float]) -> list[float]:
    """P_(d+1) / P_d for d from 0 to the deepest that a draft can be, 0 beyond the given rates."""
    rates = [1.0, *rates]
    steps = [after / before if before else 0.0 for before, after in zip(rates, rates[1:])]
    return (steps + [0.0] * (MAX_SPECULATIVE_TOKENS + 1))[: MAX_SPECULATIVE_TOKENS + 1]


def assumed_chances(rates: Sequence[float], width: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """What a draft with these rates would say: [width] of the first position, [.., width, width] of every other one."""
    first = torch.tensor(conditional(rates), device=device)[:, None]
    rest = (1 - first) * SHARE ** torch.arange(1.0, width, device=device)
    chances = torch.cat((first, rest), 1)
    return chances[0].contiguous(), chances[1:, None].expand(-1, width, -1).contiguous()


def uniform(slots: Tensor, positions: Tensor) -> Tensor:
    """Numbers in [0, 1) float32 that depend on a request's slot and a position alone; both [N] int64."""
    mixed = slots * 0x9E3779B1 + positions * 0x85EBCA77 + 0x27D4EB2F
    for factor in (0x2C1B3C6D, 0x297A2D39):
        mixed = ((mixed ^ (mixed >> 15)) * factor) & 0xFFFFFFFF
    return ((mixed ^ (mixed >> 15)) & 0xFFFFFF).float() / (1 << 24)


def depths(parents: Tensor, bounds: Tensor) -> Tensor:
    """Depth [N] int64 of every node, 0 at a root, on a CPU; parents and bounds as `decide` takes them."""
    above, found = parents.tolist(), []
    for first, end in zip(bounds.tolist(), bounds.tolist()[1:]):
        for node in range(first, end):
            found.append(found[first + above[node]] + 1 if above[node] >= 0 else 0)
    return torch.tensor(found, dtype=torch.int64)


def decide(
    tokens: Tensor, parents: Tensor, sampled: Tensor, bounds: Tensor, depth: Tensor, drawn: Tensor, chances: Tensor
) -> tuple[Tensor, Tensor]:
    """Drafted and sampled tokens [N] with which tree_accept walks as chance decides.

    tokens, parents, sampled, bounds: as tree_accept takes them, of R requests; depth [N] int64 of every node; drawn [N] in
    [0, 1); chances [L] float32, `conditional`. No value is read by the host.
    """
    total = len(tokens)
    lengths = bounds.diff()
    first = torch.repeat_interleave(bounds[:-1].long(), lengths.long(), output_size=total)
    parent = torch.where(parents >= 0, first + parents, total)
    index = torch.arange(total, device=tokens.device)
    child = torch.full((total + 1,), total, device=tokens.device).scatter_reduce(0, parent, index, "amin")[:total]
    there = child < total
    child = child.clamp_max(total - 1)
    taken = there & (tokens[child] >= 0) & (drawn < chances[depth.clamp_max(len(chances) - 1)])
    sampled = torch.where(taken, tokens[child], sampled)
    above = torch.where(parents >= 0, taken[parent.clamp_max(total - 1)], False)
    return torch.where(above, tokens, -1), sampled
