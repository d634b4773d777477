"""Simulated acceptance of a draft over held-out answers, per task."""

import torch

from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.draft.core import copied_tokens
from vllm_specflash.train.dataset import AnswerSet
from vllm_specflash.train.shape import read_draft
from vllm_specflash.train.simulate import Acceptance, drafted, walk, walk_trees, with_copies
from vllm_specflash.train.target import Target


def read_both(target: str, draft: str) -> tuple[Target, SpecFlashDraft]:
    """A target and a draft of it, on this machine's device, the target told to tell what the draft reads.

    Raises:
        SpecFlashError: as read_draft.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Target(target).to(device)
    network = read_draft(draft, model).to(device)
    model.layers = network.config.trained_layers
    return model, network


def evaluate_draft(
    draft: SpecFlashDraft,
    target: Target,
    answers: AnswerSet,
    rounds: int = 1,
    chain_length: int | None = None,
    tree_nodes: int | None = None,
    lookup: bool = False,
) -> dict[str, Acceptance]:
    """Acceptance by task, in the draft's dtype. Answers that were not greedy are left out: they are not reproducible.

    `chain_length` cuts the chains of R * K tokens; with `tree_nodes`, trees of so many nodes are drafted in their place. With `lookup`,
    what the text has read before is drafted too, as engines do; without it, the figures are the draft's own.
    """
    config, dtype = draft.config, draft.dtype
    training = draft.training
    draft.eval()
    lm_head = draft.draft_lm_head(target.lm_head).to(dtype)
    embedding = target.embedding.to(dtype)
    results: dict[str, Acceptance] = {}
    for index in range(len(answers)):
        sample = answers[index]
        if sample is None or not sample.greedy:
            continue
        features = answers.features([sample], config.pooling, config.semi_ar_width).to(draft.device)
        candidates = drafted(draft, features.batch, features.hidden.to(dtype), embedding, lm_head, rounds)
        if lookup:
            candidates = with_copies(candidates, sample, copied_tokens(rounds * config.semi_ar_width, tree_nodes or chain_length or 0))
        # Walking is one comparison after another: not a GPU's work.
        answer = sample.input_ids[sample.answer_start :].cpu()
        if tree_nodes is None:
            chances = candidates.greedy_chances()[:, :chain_length].cpu()
            acceptance = walk(candidates.chain()[:, :chain_length].cpu(), answer, chances)
        else:
            acceptance = walk_trees(candidates, answer, tree_nodes)
        results[sample.task] = results[sample.task] + acceptance if sample.task in results else acceptance
    draft.train(training)
    return results
