"""What the draft proposes: candidates out of the semi-AR head, K positions a round, as many rounds as the depth asks for."""

from collections.abc import Callable

import torch
from torch import Tensor

from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.draft.candidates import Candidates, candidates_of, joined


def draft_candidates(
    model: SpecFlashDraft,
    lm_head: Tensor,
    embed: Callable[[Tensor], Tensor],
    context,
    x: Tensor,
    next_position: Tensor,
    depth: int,
    width: int,
) -> Candidates:
    """Unroll rounds of K positions from the layer's output at the last committed position.

    A round continues from the greedy path of the one before.

    Args:
        lm_head: [V_d, D].
        context: its `attend(q, keys, values)` sees the committed context and the keys and values of earlier rounds.
        x: [Q, D].
        next_position: [Q] draft position after the last committed one.
        depth: L, positions to propose for.
        width: C, candidates of each.
    """
    rounds, keys, values = [], [], []
    per_round = model.config.semi_ar_width
    for drafted in range(0, depth, per_round):
        # Whole again where it was cut: a matrix product over a view with gaps takes many times as long on CPUs.
        hidden = model.predict(x)[:, : depth - drafted].contiguous()
        rounds.append(candidates_of(model, hidden, lm_head, width))
        if drafted + per_round < depth:
            u = model.fuse(embed(rounds[-1].chain().flatten()).to(hidden.dtype), hidden.flatten(0, 1))
            positions = next_position[:, None] + torch.arange(drafted, drafted + per_round, device=x.device)

            def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                keys.append(k.unflatten(0, (-1, per_round)))
                values.append(v.unflatten(0, (-1, per_round)))
                return context.attend(q, torch.cat(keys, 1), torch.cat(values, 1))

            last = torch.arange(per_round - 1, len(u), per_round, device=x.device)
            x = model.layer(u, positions.flatten(), attend, rows=last)
    return joined(rounds)
