"""Cross-entropy of all offsets against the target's distributions, in one pass that never holds the logits.

P positions x K offsets x V_d logits would be gigabytes, and on a CPU the memory traffic would cost more than the matrix
products. Loss and gradients are therefore computed together, a few positions at a time, in the forward pass.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Positions at a time: with K = 5 and 8k tokens a chunk's logits stay in a CPU's last-level cache.
CHUNK = 32


class Distillation(torch.autograd.Function):
    """See `distil`. Differentiable in `states`, `previous_table` and `following_table`, through the loss alone."""

    @staticmethod
    def forward(ctx, states, target_states, where, previous, weights, lm_head, previous_table, following_table):
        positions, width, _ = states.shape
        states_grad = torch.empty_like(states, dtype=lm_head.dtype)
        with_transition = previous_table is not None
        if with_transition:
            previous_low, following_low = previous_table.to(lm_head.dtype), following_table.to(lm_head.dtype)
            previous_grad = torch.zeros_like(previous_table, dtype=torch.float32)
            following_grad = torch.zeros_like(following_table, dtype=torch.float32)
        losses = states.new_zeros(width, dtype=torch.float32)
        accuracy = torch.zeros_like(losses)
        flat_weights = weights.float()
        for start in range(0, positions, CHUNK):
            stop = min(start + CHUNK, positions)
            rows = states[start:stop].to(lm_head.dtype)
            # The positions t + i of a chunk overlap: each target distribution is computed once.
            needed, index = torch.unique(where[start:stop], return_inverse=True)
            wanted = F.linear(target_states[needed].to(lm_head.dtype), lm_head).float().softmax(-1)
            logits = F.linear(rows, lm_head).float()
            if with_transition:
                ids = previous[start:stop]
                known = (ids >= 0).unsqueeze(-1)
                guessed = F.embedding(ids.clamp(min=0), previous_low) * known
                logits += F.linear(guessed, following_low)
            target = wanted[index]
            weight = flat_weights[start:stop]
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
        return scaled[0].to(ctx.dtype), None, None, None, None, None, scaled[1], scaled[2]


def distil(
    states: Tensor,
    target_states: Tensor,
    where: Tensor,
    previous: Tensor,
    weights: Tensor,
    lm_head: Tensor,
    previous_table: Tensor | None = None,
    following_table: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """sum over p, i of weights[p, i] * CE(softmax(lm_head h_where[p, i]), lm_head states[p, i] + transition).

    states [P, K, D] predicted; target_states [n, D]; where [P, K] rows of target_states; previous [P, K] draft index
    of the token before each guess, -1 for none (no transition term there); weights [P, K]; lm_head [V_d, D];
    transition tables [V_d, r] or None. Returns the loss, its share per offset [K] (for logs: no gradient flows through
    it) and the number of rows per offset whose argmax is the target's [K].
    """
    loss, per_offset, hits = Distillation.apply(
        states, target_states, where, previous, weights, lm_head, previous_table, following_table
    )
    return loss, per_offset.detach(), hits
