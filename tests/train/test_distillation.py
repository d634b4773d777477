"""The loss that never holds the logits, against the same thing written out."""

import pytest
import torch
import torch.nn.functional as F

from vllm_specflash.train import distillation
from vllm_specflash.train.distillation import Measures, choose_candidates, distil


def _problem(rank: int = 3):
    torch.manual_seed(0)
    states, targets, lm_head = torch.randn(70, 4, 16), torch.randn(80, 16), torch.randn(50, 16)
    where, guessed = torch.randint(0, 80, (70, 4)), torch.randn(70, 4, rank)
    weights = torch.rand(70, 4) * (torch.rand(70, 4) > 0.2)
    return states, targets, where, guessed, weights, lm_head, torch.zeros(50), torch.randn(50, rank)


# Each measure alone, and all of them at a temperature of the target's.
MEASURES = [
    Measures(),
    Measures(0.0, total_variation=1.0),
    Measures(0.0, acceptance=1.0),
    Measures(0.5, 0.3, 0.2, temperature=0.5),
]


@pytest.mark.parametrize("measures", MEASURES, ids=["cross-entropy", "total variation", "acceptance", "all, greedier"])
def test_loss_and_gradients_equal_plain_autograd(measures):
    states, targets, where, guessed, weights, lm_head, bias, v = _problem()
    leaves = [x.clone().double().requires_grad_() for x in (states, guessed, v)]
    logits = leaves[0] @ lm_head.double().T + leaves[1] @ leaves[2].T
    wanted = (targets.double() @ lm_head.double().T / measures.temperature).softmax(-1)[where]
    overlap = torch.minimum(wanted, logits.softmax(-1)).sum(-1)
    rows = -measures.cross_entropy * (wanted * logits.log_softmax(-1)).sum(-1)
    rows = rows + measures.total_variation * (1 - overlap) - measures.acceptance * overlap.log()
    (2 * (rows * weights).sum()).backward()
    ours = [x.clone().requires_grad_() for x in (states, guessed, v)]
    loss, per_offset, hits = distil(ours[0], targets, where, ours[1], weights, lm_head, bias, ours[2], measures)
    (2 * loss).backward()
    torch.testing.assert_close(loss.double(), (rows * weights).sum().detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(per_offset.double(), (rows * weights).sum(0).detach(), rtol=1e-5, atol=1e-5)
    right = (logits.argmax(-1) == wanted.argmax(-1)) & (weights > 0)
    assert hits.tolist() == right.sum(0).tolist()
    for mine, reference in zip(ours, leaves, strict=True):
        torch.testing.assert_close(mine.grad.double(), reference.grad, rtol=1e-4, atol=1e-5)


def test_chunks_do_not_matter(monkeypatch):
    problem = _problem()
    whole = distil(*problem)
    monkeypatch.setattr(distillation, "CHUNK", 7)
    torch.testing.assert_close(distil(*problem), whole)


def test_candidates_estimate_the_full_softmax():
    """Averaged over draws, the softmax over candidates has the full one's normaliser."""
    torch.manual_seed(0)
    targets, lm_head = torch.randn(30, 16), torch.randn(2000, 16) * 0.5
    full = (targets @ lm_head.T).logsumexp(-1)
    estimates = []
    for _ in range(400):
        chosen, bias = choose_candidates(targets, lm_head, top=4, negatives=300)
        assert len(chosen.unique()) == len(chosen)
        estimates.append((targets @ lm_head[chosen].T + bias).logsumexp(-1).exp())
    torch.testing.assert_close(torch.stack(estimates).mean(0).log(), full, atol=0.03, rtol=0)


def test_every_target_distribution_keeps_its_best_tokens():
    targets, lm_head = torch.randn(30, 16), torch.randn(200, 16)
    chosen, bias = choose_candidates(targets, lm_head, top=4, negatives=0)
    best = F.linear(targets, lm_head).topk(4).indices.unique()
    assert chosen.tolist() == best.tolist() and bias.abs().max() == 0
