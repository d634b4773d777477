"""The reduced draft vocabulary: the tokens that answers are made of."""

from collections import Counter
from collections.abc import Iterable
from itertools import count, islice

import torch
from torch import Tensor


def choose_vocabulary(answers: Iterable[list[int]], size: int) -> tuple[Tensor, float]:
    """The `size` most frequent token ids of the answers, ascending, as d2t [size]; and the share of tokens it covers.

    Where the answers use fewer tokens, the lowest ids fill up: byte-pair merges are numbered by frequency. Ties go to
    the lower id too, so that the choice does not depend on the order of the answers.
    """
    counts = Counter(token for answer in answers for token in answer)
    chosen = set(sorted(counts, key=lambda token: (-counts[token], token))[:size])
    fill = (token for token in count() if token not in counts)
    chosen.update(islice(fill, size - len(chosen)))
    covered = sum(counts[token] for token in chosen)
    return torch.tensor(sorted(chosen)), covered / max(sum(counts.values()), 1)


def target_to_draft(d2t: Tensor, target_vocab_size: int) -> Tensor:
    """Inverse of d2t: [V] draft index of each target id, -1 where the draft cannot propose it."""
    t2d = torch.full((target_vocab_size,), -1, device=d2t.device)
    t2d[d2t] = torch.arange(len(d2t), device=d2t.device)
    return t2d
