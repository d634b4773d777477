"""Losses of the paper, per offset: SmoothL1 on the hidden state, cross-entropy against the target's distribution."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.train.batch import Batch
from vllm_specflash.train.distillation import Measures, agreement, choose_candidates, distil
from vllm_specflash.train.option import option


@dataclass(frozen=True)
class LossOptions:
    """Weights of the losses and noise on the inputs."""

    smooth_l1: float = option(1.0, "Weight of SmoothL1 on the hidden states.", min=0)
    cross_entropy: float = option(1.0, "Weight of the cross-entropy (the paper: 0.1).", min=0)
    total_variation: float = option(0.0, "Weight of the share of sampled tokens rejected.", min=0)
    acceptance: float = option(0.0, "Weight of the negative logarithm of the share accepted.", min=0)
    target_temperature: float = option(1.0, "Of the target's distributions; below 1: greedier.", min=0.01)
    offset_decay: float = option(0.8, "Offset i weighs this to the power i - 1.", min=0)
    top: int = option(8, "Best tokens of each target distribution that the softmax is over.", min=1)
    negatives: int = option(1024, "Random other tokens in the softmax; 0: all tokens.", min=0)
    on_policy: float = option(0.0, "Extra weight where the draft's own steps begin: after what it got wrong.", min=0)
    noise: float = option(0.2, "Input noise is uniform of width noise * 512 / length.", min=0)

    @property
    def measures(self) -> Measures:
        return Measures(self.cross_entropy, self.total_variation, self.acceptance, self.target_temperature)


@dataclass
class Losses:
    """`total` is what is minimised; the others are means over the valid positions of each offset, [K], for logs.

    `cross_entropy` is all of the loss on the distributions, weighted as LossOptions says; `accuracy` is agreement with the target's
    argmax among the candidates, the tokens before it given.
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


def _guessed(draft: SpecFlashDraft, previous: Tensor, predicted: Tensor) -> Tensor:
    """What the transition knows of the token before each offset, [P, K, r]; zero where `previous` [P, K] is -1."""
    vectors = draft.transition.guess(previous[:, 1:, None].clamp(min=0), predicted).squeeze(2)
    return F.pad(vectors * (previous[:, 1:] >= 0).unsqueeze(-1), (0, 0, 1, 0))


@torch.no_grad()
def step_starts(right: Tensor, answer_from: Tensor) -> Tensor:
    """[P] where decoding with this draft would ask it: a chain's rejected tokens decide which position comes next.

    right [P, K] whether each offset's choice is the target's, those before it given; answer_from [P] flat target positions, of
    which those of one answer follow each other.
    """
    accepted = right.long().cumprod(1).sum(1).tolist()
    places = answer_from.tolist()
    starts, due = torch.zeros(len(places), dtype=torch.bool), -1
    for row, place in enumerate(places):
        if not row or place != places[row - 1] + 1 or place >= due:
            starts[row], due = True, place + accepted[row] + 1
    return starts.to(right.device)


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

    predicted [P, K, D], hidden [B, L, feature_size], lm_head [V_d, D] (the draft's rows, so that a reduced vocabulary renormalises
    the target's distribution), t2d [V] target id -> draft index or -1 (None when the vocabulary is full).
    """
    flat, targets = hidden.flatten(0, 1)[:, : draft.config.hidden_size], batch.targets()
    counts = batch.valid.sum(0).clamp(min=1)
    decay = options.offset_decay ** torch.arange(predicted.shape[1], device=predicted.device)
    decay = decay / decay.sum()
    weights = batch.valid / counts
    error = F.smooth_l1_loss(predicted.float(), flat[targets].float(), reduction="none").mean(-1)
    smooth_l1 = (error * weights).sum(0)
    guessed = following = None
    if draft.config.transition_rank:
        guessed, following = _guessed(draft, previous_tokens(batch, t2d), predicted), draft.transition.following
    bias = torch.zeros(len(lm_head), device=lm_head.device)
    if options.negatives:
        chosen, bias = choose_candidates(flat[targets.unique()], lm_head, options.top, options.negatives)
        lm_head, following = lm_head[chosen], None if following is None else following[chosen]
    if options.on_policy:
        right = agreement(predicted, flat, targets, guessed, lm_head, bias, following)
        starts = step_starts(right & batch.valid, batch.answer_from)
        weights = weights * (1 + options.on_policy * starts.unsqueeze(-1))
        weights = weights / weights.sum(0).clamp(min=1e-6) * (batch.valid.sum(0) > 0)
    loss, per_offset, hits = distil(
        predicted, flat, targets, guessed, weights * decay, lm_head, bias, following, options.measures
    )
    total = options.smooth_l1 * (smooth_l1 * decay).sum() + loss
    return Losses(total, smooth_l1.detach(), per_offset / decay, hits / counts)
