"""Losses of all offsets against the target's distributions p, in one pass that never holds the logits.

With q the draft's distribution, three measures of how far it is from p: the cross-entropy -sum p log q; the total variation
1 - sum min(p, q), the share of sampled tokens that would be rejected; and -log sum min(p, q), which follows acceptance too but does
not vanish where the two hardly overlap (LK loss).

P positions x K offsets x V_d logits would be gigabytes, and on a CPU the memory traffic would cost more than the matrix
products. Loss and gradients are therefore computed together, a few positions at a time, in the forward pass.

Most of a vocabulary has no weight in any distribution of a batch. `choose_candidates` keeps the tokens that have, and
a random sample of the others that stands for all of them through a bias of log(1 / sampling rate): the softmax over the
candidates is then a close estimate of the full one, for target and draft alike.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Positions at a time: with K = 5 and 8k tokens a chunk's logits stay in a CPU's last-level cache.
CHUNK = 32


@dataclass(frozen=True)
class Measures:
    """Weights of the three, and what the target's logits are divided by: below 1, p is nearer to its greedy choice."""

    cross_entropy: float = 1.0
    total_variation: float = 0.0
    acceptance: float = 0.0
    temperature: float = 1.0


@torch.no_grad()
def choose_candidates(target_states: Tensor, lm_head: Tensor, top: int, negatives: int) -> tuple[Tensor, Tensor]:
    """Draft indices [C], and their bias [C], for the distributions at target_states [n, D].

    The `top` best tokens of every distribution, or all where there are fewer, and `negatives` of the others at random.
    """
    top = min(top, len(lm_head))
    likely = torch.zeros(len(lm_head), dtype=torch.bool, device=lm_head.device)
    for states in target_states.to(lm_head.dtype).split(8 * CHUNK):
        likely[F.linear(states, lm_head).topk(top, dim=-1).indices.flatten()] = True
    others = (~likely).nonzero().squeeze(-1)
    sampled = others[torch.randperm(len(others), device=others.device)[:negatives]]
    chosen = likely.nonzero().squeeze(-1)
    bias = torch.zeros(len(chosen) + len(sampled), device=lm_head.device)
    if len(sampled):
        bias[len(chosen) :] = math.log(len(others) / len(sampled))
    return torch.cat((chosen, sampled)), bias


@torch.no_grad()
def agreement(
    states: Tensor,
    target_states: Tensor,
    where: Tensor,
    guessed: Tensor | None,
    lm_head: Tensor,
    bias: Tensor,
    following: Tensor | None,
) -> Tensor:
    """[P, K] whether draft and target choose the same candidate; arguments as of `distil`."""
    right = torch.zeros(where.shape, dtype=torch.bool, device=states.device)
    for start in range(0, len(states), CHUNK):
        rows = slice(start, start + CHUNK)
        needed, index = torch.unique(where[rows], return_inverse=True)
        wanted = (F.linear(target_states[needed].to(lm_head.dtype), lm_head).float() + bias).argmax(-1)
        logits = F.linear(states[rows].to(lm_head.dtype), lm_head).float() + bias
        if guessed is not None:
            logits += F.linear(guessed[rows].to(lm_head.dtype), following.to(lm_head.dtype))
        right[rows] = logits.argmax(-1) == wanted[index]
    return right


class Distillation(torch.autograd.Function):
    """See `distil`. Differentiable in `states`, `guessed` and `following`, through the loss alone."""

    @staticmethod
    def forward(ctx, states, target_states, where, guessed, weights, lm_head, bias, following, measures):
        positions, width, _ = states.shape
        states_grad = torch.empty_like(states, dtype=lm_head.dtype)
        with_transition = guessed is not None
        guessed_grad = following_grad = None
        if with_transition:
            guessed_low, following_low = guessed.to(lm_head.dtype), following.to(lm_head.dtype)
            guessed_grad = torch.empty_like(guessed_low)
            following_grad = torch.zeros_like(following, dtype=torch.float32)
        losses = states.new_zeros(width, dtype=torch.float32)
        accuracy = torch.zeros_like(losses)
        for start in range(0, positions, CHUNK):
            stop = min(start + CHUNK, positions)
            rows = states[start:stop].to(lm_head.dtype)
            # The positions t + i of a chunk overlap: each target distribution is computed once.
            needed, index = torch.unique(where[start:stop], return_inverse=True)
            wanted = F.linear(target_states[needed].to(lm_head.dtype), lm_head).float() / measures.temperature
            wanted = (wanted + bias).softmax(-1)
            logits = F.linear(rows, lm_head).float().add_(bias)
            if with_transition:
                logits += F.linear(guessed_low[start:stop], following_low)
            weight = weights[start:stop]
            accuracy += ((logits.argmax(-1) == wanted.argmax(-1)[index]) * (weight > 0)).sum(0)
            loss, slope = _measured(logits, wanted[index], measures)
            losses += (loss * weight).sum(0)
            gradient = slope.mul_(weight.unsqueeze(-1)).to(lm_head.dtype)
            states_grad[start:stop] = gradient @ lm_head
            if with_transition:
                following_grad += gradient.flatten(0, 1).T @ guessed_low[start:stop].flatten(0, 1)
                guessed_grad[start:stop] = gradient @ following_low
        ctx.dtypes = states.dtype, guessed.dtype if with_transition else None
        ctx.save_for_backward(states_grad, guessed_grad, following_grad)
        ctx.mark_non_differentiable(accuracy)
        return losses.sum(), losses, accuracy

    @staticmethod
    def backward(ctx, upstream, _losses, _accuracy):
        states, guessed, following = (None if g is None else g * upstream for g in ctx.saved_tensors)
        guessed = None if guessed is None else guessed.to(ctx.dtypes[1])
        return states.to(ctx.dtypes[0]), None, None, guessed, None, None, None, following, None


def _measured(logits: Tensor, target: Tensor, measures: Measures) -> tuple[Tensor, Tensor]:
    """Weighted loss of each row of logits [..., C] against target [..., C], and its slope along the logits, which it overwrites."""
    normaliser = logits.logsumexp(-1)
    loss = measures.cross_entropy * (normaliser - (target * logits).sum(-1))
    chance = logits.sub_(normaliser.unsqueeze(-1)).exp_()
    overlap, along = None, 0.0
    if measures.total_variation or measures.acceptance:
        overlap = torch.minimum(chance, target).sum(-1).clamp(min=1e-12)
        loss = loss + measures.total_variation * (1 - overlap) - measures.acceptance * overlap.log()
        # d overlap / d logits: only where q < p does more of q mean more overlap.
        short = chance * (chance < target)
        along = short - chance * short.sum(-1, keepdim=True)
        along *= (measures.total_variation + measures.acceptance / overlap).unsqueeze(-1)
    return loss, chance.sub_(target).mul_(measures.cross_entropy).sub_(along)


def distil(
    states: Tensor,
    target_states: Tensor,
    where: Tensor,
    guessed: Tensor | None,
    weights: Tensor,
    lm_head: Tensor,
    bias: Tensor,
    following: Tensor | None = None,
    measures: Measures = Measures(),
) -> tuple[Tensor, Tensor, Tensor]:
    """sum over p, i of weights[p, i] * loss(softmax(z(h_where[p, i]) / T), softmax(z(states[p, i]) + transition)).

    z(h) = lm_head h + bias, the bias after the temperature T. states [P, K, D] predicted; target_states [n, D]; where [P, K] rows of
    target_states; guessed [P, K, r] vector of the token before each guess, zero for none (no transition term there);
    weights [P, K]; lm_head [C, D] rows of the candidate tokens and their bias [C]; following [C, r]. The last two of the
    transition are both None for a draft without one.
    Returns the loss, its share per offset [K] (for logs: no gradient flows through it) and the number of rows per offset
    whose best candidate is the target's [K].
    """
    loss, per_offset, hits = Distillation.apply(
        states, target_states, where, guessed, weights, lm_head, bias, following, measures
    )
    return loss, per_offset.detach(), hits
