"""The semi-autoregressive head: K future hidden states from one (arXiv 2505.12728), and the transition term."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SemiARHead(nn.Module):
    """Linear(D, e D), SiLU, Linear(e D, K D)."""

    def __init__(self, hidden_size: int, width: int, expansion: int):
        super().__init__()
        self.width = width
        self.up_proj = nn.Linear(hidden_size, expansion * hidden_size)
        self.down_proj = nn.Linear(expansion * hidden_size, width * hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> [..., K, D]."""
        return self.down_proj(F.silu(self.up_proj(x))).unflatten(-1, (self.width, -1))


class Transition(nn.Module):
    """Low-rank correction of position i for the token guessed at i - 1: logits_i(. | x) = logits_i + U V[x].

    Both sides are in draft-vocabulary indices. It is not applied to the first position of a round, whose previous
    token is an input of the network already.
    """

    def __init__(self, num_draft_tokens: int, rank: int):
        super().__init__()
        self.previous = nn.Parameter(torch.empty(num_draft_tokens, rank))
        self.following = nn.Parameter(torch.empty(num_draft_tokens, rank))

    def forward(self, previous: Tensor, following: Tensor) -> Tensor:
        """What tokens at i - 1 add to tokens at i, draft indices [..., B] and [..., C] -> [..., B, C]."""
        return F.embedding(previous, self.previous) @ F.embedding(following, self.following).mT
