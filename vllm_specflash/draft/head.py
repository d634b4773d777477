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
    """Low-rank correction of position i for the token guessed at i - 1: logits_i(. | x) = logits_i + U q(x).

    q(x) is V[x] alone or, with a `selector`, V[x] + s(V[x], h^_{i-1}, h^_i): what a token is followed by depends on what is
    being said. Tokens are draft-vocabulary indices. It is not applied to the first position of a round, whose previous
    token is an input of the network already.
    """

    def __init__(self, num_draft_tokens: int, rank: int, hidden_size: int = 0, selector_width: int = 0):
        super().__init__()
        self.previous = nn.Parameter(torch.empty(num_draft_tokens, rank))
        self.following = nn.Parameter(torch.empty(num_draft_tokens, rank))
        self.selector = Selector(rank, hidden_size, selector_width) if selector_width else None

    def guess(self, previous: Tensor, states: Tensor) -> Tensor:
        """q of draft indices [..., K - 1, B], given the predicted states [..., K, D] -> [..., K - 1, B, r]."""
        tokens = F.embedding(previous, self.previous)
        return tokens if self.selector is None else tokens + self.selector(tokens, states)

    def forward(self, previous: Tensor, following: Tensor, states: Tensor) -> Tensor:
        """What tokens at positions 1..K-1 add to tokens at the positions after them.

        Draft indices [..., K - 1, B] and [..., K - 1, C], predicted states [..., K, D] -> [..., K - 1, B, C].
        """
        before, after = self.guess(previous, states), F.embedding(following, self.following)
        if before.is_cpu:
            # Such small products take CPUs longer in bfloat16.
            before, after = before.float(), after.float()
        return before @ after.mT


class Selector(nn.Module):
    """s(v, h^_{i-1}, h^_i) = W_o SiLU(W_v v + W_h [h^_{i-1}; h^_i] + b): one token's vector v in the light of the states."""

    def __init__(self, rank: int, hidden_size: int, width: int):
        super().__init__()
        self.state_proj = nn.Linear(2 * hidden_size, width)
        self.token_weight = nn.Parameter(torch.empty(width, rank))
        self.out_weight = nn.Parameter(torch.empty(rank, width))

    def forward(self, tokens: Tensor, states: Tensor) -> Tensor:
        """Tokens' vectors [..., K - 1, B, r] and predicted states [..., K, D] -> [..., K - 1, B, r]."""
        pairs = torch.cat((states[..., :-1, :], states[..., 1:, :]), dim=-1)
        return self.of_seen(F.silu(self.of_tokens(tokens) + self.state_proj(pairs).unsqueeze(-2)))

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """W_v v."""
        return F.linear(tokens, self.token_weight)

    def of_seen(self, seen: Tensor) -> Tensor:
        """W_o x."""
        return F.linear(seen, self.out_weight)
