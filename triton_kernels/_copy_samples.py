"""Inputs of the ops that look up what texts have read before, at serving shapes, beside those of the others (_samples.py)."""

import torch

from .find_copies import LONGEST, Copies
from .mix_copies import WEIGHTS


def find_copies_inputs(requests: int, length: int, depth: int, device: str) -> dict:
    """Arguments of find_copies: texts of 64 different tokens, so that every one has matches, and none is in its first slot's place."""
    return dict(
        tokens=torch.randint(0, 64, (requests, length), dtype=torch.int32, device=device),
        slot_of=torch.arange(requests, device=device).flip(0),
        ends=torch.full((requests,), length, dtype=torch.int32, device=device),
        depth=depth,
        vocab_size=50,
    )


def mix_copies_inputs(requests: int, levels: int, candidates: int, depth: int, device: str) -> dict:
    """Arguments of mix_copies: every copied token is a candidate where the draft says something."""
    candidate = torch.arange(candidates, device=device).expand(requests, levels, -1).contiguous()
    return dict(
        tokens=candidate,
        first=torch.rand(requests, candidates, device=device).softmax(-1),
        following=torch.rand(requests, levels - 1, candidates, candidates, device=device).softmax(-1),
        copies=Copies(
            torch.arange(requests * depth, device=device).view(requests, depth) % candidates,
            torch.full((requests,), LONGEST // 2, dtype=torch.int32, device=device),
        ),
        weights=torch.tensor(WEIGHTS, device=device),
    )
