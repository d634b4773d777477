"""Chains out of the semi-AR head: K tokens a round, as many rounds as the length asks for."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_specflash.draft import SpecFlashDraft


@dataclass
class Chain:
    """Q chains of n tokens.

    Attributes:
        tokens: [Q, n] target token ids.
        probability: [Q, n] float32, each token's given that those before it are right, as the draft sees it.
    """

    tokens: Tensor
    probability: Tensor


def draft_chain(
    model: SpecFlashDraft,
    lm_head: Tensor,
    embed: Callable[[Tensor], Tensor],
    context,
    x: Tensor,
    next_position: Tensor,
    length: int,
) -> Chain:
    """Unroll rounds of K tokens from the layer's output at the last committed position.

    Args:
        lm_head: [V_d, D].
        context: its `attend(q, keys, values)` sees the committed context and the keys and values of earlier rounds.
        x: [Q, D].
        next_position: [Q] draft position after the last committed one.
        length: n.
    """
    tokens, probabilities, keys, values = [], [], [], []
    width = model.config.semi_ar_width
    for drafted in range(0, length, width):
        hidden = model.predict(x)[:, : length - drafted]
        chosen, probability = most_likely(model, F.linear(hidden, lm_head))
        chosen = model.to_target_ids(chosen)
        tokens.append(chosen)
        probabilities.append(probability)
        if drafted + width < length:
            u = model.fuse(embed(chosen.flatten()).to(hidden.dtype), hidden.flatten(0, 1))
            positions = next_position[:, None] + torch.arange(drafted, drafted + width, device=x.device)

            def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                keys.append(k.unflatten(0, (-1, width)))
                values.append(v.unflatten(0, (-1, width)))
                return context.attend(q, torch.cat(keys, 1), torch.cat(values, 1))

            last = torch.arange(width - 1, len(u), width, device=x.device)
            x = model.layer(u, positions.flatten(), attend, rows=last)
    return Chain(torch.cat(tokens, 1), torch.cat(probabilities, 1))


def most_likely(model: SpecFlashDraft, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Greedy draft tokens [Q, n] (draft vocabulary) and their probabilities, from logits [Q, n, V_d]."""
    # On CPUs one softmax costs a third of max and logsumexp, and this is a good part of a draft.
    logits = logits.float()
    if not model.config.transition_rank:
        probability, chosen = logits.softmax(-1).max(-1)
        return chosen, probability
    tokens, probabilities = [], []
    for offset in range(logits.shape[1]):
        row = logits[:, offset]
        if offset:
            row = row + model.transition(tokens[-1])
        probability, chosen = row.softmax(-1).max(-1)
        tokens.append(chosen)
        probabilities.append(probability)
    return torch.stack(tokens, 1), torch.stack(probabilities, 1)
