"""Losses of the paper, per offset: SmoothL1 on the hidden state, cross-entropy against the target's distribution."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.train.batch import Batch
from vllm_specflash.train.distillation import choose_candidates, distil


@dataclass(frozen=True)
class LossOptions:
    """Weights of the losses and noise on the inputs."""

    smooth_l1: float = field(default=1.0, metadata={"help": "Weight of SmoothL1 on the hidden states."})
    cross_entropy: float = field(default=1.0, metadata={"help": "Weight of the cross-entropy (the paper: 0.1)."})
    offset_decay: float = field(default=0.8, metadata={"help": "Offset i weighs this to the power i - 1."})
    top: int = field(default=8, metadata={"help": "Best tokens of each target distribution that the softmax is over."})
    negatives: int = field(default=1024, metadata={"help": "Random other tokens in the softmax; 0: all tokens."})
    noise: float = field(default=0.2, metadata={"help": "Input noise is uniform of width noise * 512 / length."})


@dataclass
class Losses:
    """`total` is what is minimised; the others are means over the valid positions of each offset, [K], for logs.

    `accuracy` is agreement with the target's argmax among the candidates, the tokens before it given.
    """

    total: Tensor
    smooth_l1: Tensor
    cross_entropy: Tensor
    accuracy: Tensor


def previous_tokens(batch: Batch, t2d: Tensor | None) -> Tensor:
    """[P, K] draft index of x_{t+i}, the token before the one that offset i guesses; -1 for none.

    None for the first offset, whose previous token is an input of the network, and where the draft cannot propose
    x_{t+i}: then it never guessed it.
    """
    previous = batch.input_ids.flatten()[batch.targets()]
    if t2d is not None:
        previous = t2d[previous]
    previous[:, 0] = -1
    return previous.masked_fill(~batch.valid, -1)


def draft_losses(
    draft: SpecFlashDraft,
    batch: Batch,
    predicted: Tensor,
    hidden: Tensor,
    lm_head: Tensor,
    t2d: Tensor | None,
    options: LossOptions,
) -> Losses:
    """Offset i at position t is paired with h_{t+i}; the transition term is fed the true x_{t+i}.

    predicted [P, K, D], hidden [B, L, D], lm_head [V_d, D] (the draft's rows, so that a reduced vocabulary renormalises
    the target's distribution), t2d [V] target id -> draft index or -1 (None when the vocabulary is full).
    """
    flat, targets = hidden.reshape(-1, hidden.shape[-1]), batch.targets()
    counts = batch.valid.sum(0).clamp(min=1)
    decay = options.offset_decay ** torch.arange(predicted.shape[1], device=predicted.device)
    decay = decay / decay.sum()
    weights = batch.valid / counts
    error = F.smooth_l1_loss(predicted.float(), flat[targets].float(), reduction="none").mean(-1)
    smooth_l1 = (error * weights).sum(0)
    tables = (draft.transition.previous, draft.transition.following) if draft.config.transition_rank else (None, None)
    bias = torch.zeros(len(lm_head), device=lm_head.device)
    if options.negatives:
        chosen, bias = choose_candidates(flat[targets.unique()], lm_head, options.top, options.negatives)
        lm_head, tables = lm_head[chosen], (tables[0], None if tables[1] is None else tables[1][chosen])
    loss, per_offset, hits = distil(
        predicted, flat, targets, previous_tokens(batch, t2d), weights * decay, lm_head, bias, *tables
    )
    total = options.smooth_l1 * (smooth_l1 * decay).sum() + options.cross_entropy * loss
    return Losses(total, smooth_l1.detach(), per_offset / decay, hits / counts)
