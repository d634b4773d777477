"""How much a copy deserves to be believed beside a draft: where the weights of triton_kernels/mix_copies.py come from.

    python -m vllm_specflash.lab.bench.copy_trust --target TARGET --draft DRAFT --data ANSWERS --out copy-weights.json

Over held-out greedy answers, at every position whose text matches an earlier one in m tokens: the share of copied tokens that were right,
and the weight that makes what was said likeliest, where the copy has weight w and the draft 1 - w.
"""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.train.dataset import AnswerSet, greedy_held_out
from vllm_specflash.train.features import FeatureCache
from vllm_specflash.train.provenance import write_provenance
from vllm_specflash.train.shape import read_draft
from vllm_specflash.train.simulate import copies_of, drafted
from vllm_specflash.train.target import Target

WEIGHTS = np.linspace(0, 0.99, 100)
# No single token that the mixture gave no chance may decide.
LEAST = 1e-3


def likeliest(chances: np.ndarray, right: np.ndarray) -> float:
    """The weight of copied tokens [N], to which the draft gave these chances and which were right or not."""
    mixed = WEIGHTS[:, None] + (1 - WEIGHTS[:, None]) * chances
    likelihood = np.log(np.clip(np.where(right, mixed, 1 - mixed), LEAST, 1)).mean(1)
    return float(WEIGHTS[likelihood.argmax()])


@torch.no_grad()
def observed(draft, target: Target, answers: AnswerSet) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """By matched tokens: the draft's chances of what was copied, and whether that was said."""
    seen, lm_head = defaultdict(lambda: ([], [])), draft.draft_lm_head(target.lm_head).float()
    for index in range(len(answers)):
        sample = answers[index]
        if sample is None:
            continue
        features = answers.features([sample], draft.config.pooling, draft.config.semi_ar_width)
        candidates = drafted(draft, features.batch, features.hidden.float(), target.embedding.float(), lm_head, 1)
        copies = copies_of(sample, len(candidates.first), 1)
        copied = copies.tokens[:, 0]
        chances = (candidates.first * (candidates.tokens[:, 0] == copied[:, None])).sum(1)
        right = copied == sample.input_ids[sample.answer_start + 1 :]
        for matched, chance, said in zip(copies.matched.tolist(), chances.tolist(), right.tolist()):
            if matched:
                seen[matched][0].append(chance)
                seen[matched][1].append(said)
    return {matched: (np.array(chances), np.array(right)) for matched, (chances, right) in sorted(seen.items())}


def run(
    target: Annotated[str, typer.Option(help="Checkpoint folder or hub id of the target.")],
    draft: Annotated[str, typer.Option(help="Checkpoint folder or hub id of the draft.")],
    data: Annotated[list[Path], typer.Option(help="Folder of answers from `specflash data`; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Where the figures go, as json.")],
    features: Annotated[Path | None, typer.Option(help="Where `specflash data --features` kept the target's.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most answers.")] = 250,
    held_out_share: Annotated[float, typer.Option(min=0, max=1, help="Share of the answers that training held out.")] = 0.05,
    max_length: Annotated[int, typer.Option(min=2, help="Longest prompt and answer together, in tokens.")] = 4096,
) -> None:
    with one_sentence_errors():
        model, skipped = Target(target), Counter()
        network = read_draft(draft, model).eval()
        model.layers = network.config.trained_layers
        answers = greedy_held_out(model, data, held_out_share, max_length, skipped)[:limit]
        cache = None if features is None else FeatureCache(features, model.text_config.hidden_size, model.name, model.layers)
        seen = observed(network, model, AnswerSet(answers, model, max_length, skipped, cache))
    weights = {
        matched: {"places": len(right), "right": right.mean(), "draft": chances.mean(), "weight": likeliest(chances, right)}
        for matched, (chances, right) in seen.items()
    }
    for matched, found in weights.items():
        print(f"{matched:2d} tokens match: {found['places']:6d} places, {found['right']:.2f} right, weight {found['weight']:.2f}")
    write_provenance(out, target=model.name, draft=draft, answers=len(answers), weights=weights)


if __name__ == "__main__":
    typer.run(run)
