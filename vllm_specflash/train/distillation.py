"""Cross-entropy of all offsets against the target's distributions, in one pass that never holds the logits.

P positions x K offsets x V_d logits would be gigabytes, and on a CPU the memory traffic would cost more than the matrix
products. Loss and gradients are therefore computed together, a few positions at a time, in the forward pass.

Most of a vocabulary has no weight in any distribution of a batch. `choose_candidates` keeps the tokens that have, and
a random sample of the others that stands for all of them through a bias of log(1 / sampling rate): the softmax over the
candidates is then a close estimate of the full one, for target and draft alike.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Positions at a time: with K = 5 and 8k tokens a chunk's logits stay in a CPU's last-level cache.
CHUNK = 32


@torch.no_grad()
def choose_candidates(target_states: Tensor, lm_head: Tensor, top: int, negatives: int) -> tuple[Tensor, Tensor]:
    """Draft indices [C], and their bias [C], for the distributions at target_states [n, D].

    The `top` best tokens of every distribution, and `negatives` of the others at random.
    """
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


class Distillation(torch.autograd.Function):
    """See `distil`. Differentiable in `states`, `previous_table` and `following_table`, through the loss alone."""

    @staticmethod
    def forward(ctx, states, target_states, where, previous, weights, lm_head, bias, previous_table, following_table):
        positions, width, _ = states.shape
        states_grad = torch.empty_like(states, dtype=lm_head.dtype)
        with_transition = previous_table is not None
        if with_transition:
            previous_low, following_low = previous_table.to(lm_head.dtype), following_table.to(lm_head.dtype)
            previous_grad = torch.zeros_like(previous_table, dtype=torch.float32)
            following_grad = torch.zeros_like(following_table, dtype=torch.float32)
        losses = states.new_zeros(width, dtype=torch.float32)
        accuracy = torch.zeros_like(losses)
        for start in range(0, positions, CHUNK):
            stop = min(start + CHUNK, positions)
            rows = states[start:stop].to(lm_head.dtype)
            # The positions t + i of a chunk overlap: each target distribution is computed once.
            needed, index = torch.unique(where[start:stop], return_inverse=True)
            wanted = (F.linear(target_states[needed].to(lm_head.dtype), lm_head).float() + bias).softmax(-1)
            logits = F.linear(rows, lm_head).float().add_(bias)
            if with_transition:
                ids = previous[start:stop]
                known = (ids >= 0).unsqueeze(-1)
                guessed = F.embedding(ids.clamp(min=0), previous_low) * known
                logits += F.linear(guessed, following_low)
            target = wanted[index]
            weight = weights[start:stop]
            accuracy += ((logits.argmax(-1) == wanted.argmax(-1)[index]) * (weight > 0)).sum(0)
            normaliser = logits.logsumexp(-1)
            losses += ((normaliser - (target * logits).sum(-1)) * weight).sum(0)
            # d loss / d logits = weight * (softmax(logits) - target), in place of the logits.
            logits.sub_(normaliser.unsqueeze(-1)).exp_().sub_(target).mul_(weight.unsqueeze(-1))
            gradient = logits.to(lm_head.dtype)
            states_grad[start:stop] = gradient @ lm_head
            if with_transition:
                flat = gradient.flatten(0, 1)
                following_grad += flat.T @ guessed.flatten(0, 1)
                back = (flat @ following_low).unflatten(0, (-1, width)) * known
                previous_grad.index_add_(0, ids.clamp(min=0).flatten(), back.flatten(0, 1).float())
        ctx.dtype = states.dtype
        ctx.save_for_backward(
            states_grad, *((previous_grad, following_grad) if with_transition else (None, None))
        )
        ctx.mark_non_differentiable(accuracy)
        return losses.sum(), losses, accuracy

    @staticmethod
    def backward(ctx, upstream, _losses, _accuracy):
        states_grad, previous_grad, following_grad = ctx.saved_tensors
        scaled = [None if g is None else g * upstream for g in (states_grad, previous_grad, following_grad)]
        return scaled[0].to(ctx.dtype), None, None, None, None, None, None, scaled[1], scaled[2]


def distil(
    states: Tensor,
    target_states: Tensor,
    where: Tensor,
    previous: Tensor,
    weights: Tensor,
    lm_head: Tensor,
    bias: Tensor,
    previous_table: Tensor | None = None,
    following_table: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """sum over p, i of weights[p, i] * CE(softmax(z(h_where[p, i])), z(states[p, i]) + transition), z(h) = lm_head h + bias.

    states [P, K, D] predicted; target_states [n, D]; where [P, K] rows of target_states; previous [P, K] row of
    `previous_table` for the token before each guess, -1 for none (no transition term there); weights [P, K];
    lm_head [C, D] rows of the candidate tokens and their bias [C]; transition tables [V_d, r] and [C, r], or None.
    Returns the loss, its share per offset [K] (for logs: no gradient flows through it) and the number of rows per offset
    whose best candidate is the target's [K].
    """
    loss, per_offset, hits = Distillation.apply(
        states, target_states, where, previous, weights, lm_head, bias, previous_table, following_table
    )
    return loss, per_offset.detach(), hits
