"""The few tokens per position that a candidate tree chooses from, and how likely each is after each of those before it."""

from typing import NamedTuple

import torch
from torch import Tensor

from vllm_specflash.triton_kernels.find_copies import Copies
from vllm_specflash.triton_kernels.mix_copies import mix_copies
from vllm_specflash.triton_kernels.pair_chances import pair_chances

# Candidates a position offers unless told otherwise: more of them change the acceptance of a chain or tree by nothing.
CANDIDATES = 32


class Candidates(NamedTuple):
    """C candidates at each of L drafted positions of Q requests, the likeliest first.

    A row that computed nonsense (NaN) has no chance anywhere.
    """

    tokens: Tensor
    """[Q, L, C] int64 target token ids."""
    first: Tensor
    """[Q, C] float32, chance of each candidate of the first position."""
    following: Tensor
    """[Q, L - 1, C, C] float32, chance of candidate [.., c] at position i + 1 after candidate [.., b, .] at position i."""

    def greedy(self) -> Tensor:
        """Candidate index [Q, L] of the likeliest token at each position, each given the one before it."""
        chosen = [self.first.argmax(-1)]
        rows = torch.arange(len(chosen[0]), device=self.tokens.device)
        for position in range(self.following.shape[1]):
            chosen.append(self.following[rows, position, chosen[-1]].argmax(-1))
        return torch.stack(chosen, 1)

    def greedy_chances(self) -> Tensor:
        """[Q, L] float32, chance of each token of that path after the one before it."""
        chosen = self.greedy()
        rows = torch.arange(len(chosen), device=chosen.device)[:, None]
        positions = torch.arange(chosen.shape[1] - 1, device=chosen.device)
        following = self.following[rows, positions, chosen[:, :-1], chosen[:, 1:]]
        return torch.cat((self.first.gather(1, chosen[:, :1]), following), 1)

    def chain(self) -> Tensor:
        """Target token ids [Q, L] of that path."""
        return self.tokens.gather(2, self.greedy().unsqueeze(2)).squeeze(2)

    def with_copies(self, copies: Copies, weights: Tensor) -> "Candidates":
        """These and what the requests' own texts say, to the depth of the copies."""
        return Candidates(*mix_copies(*self, copies, weights))


def candidates_of(draft, states: Tensor, logits: Tensor, width: int) -> Candidates:
    """Candidates of one round: what K predicted states say, each position corrected for the one before it.

    The transition moves the candidates' chances among each other; what lies outside them keeps its own.

    Args:
        draft: the SpecFlashDraft that the states are of.
        states: h^ [Q, K, D].
        logits: [Q, K, V_d], what lm_head makes of them.
        width: C, at most V_d.
    """
    chance, index = logits.softmax(-1, dtype=torch.float32).topk(min(width, logits.shape[-1]))
    tokens = draft.to_target_ids(index)
    if draft.config.transition_rank and logits.shape[1] > 1:
        return Candidates(tokens, *pair_chances(chance, draft.transition(index[:, :-1], index[:, 1:], states)))
    chance = chance.nan_to_num(0.0)
    return Candidates(tokens, chance[:, 0], chance[:, 1:, None, :].expand(-1, -1, chance.shape[-1], -1))


def joined(rounds: list[Candidates]) -> Candidates:
    """Candidates of several rounds as one; a round's first position can only follow the greedy path of the one before."""
    if len(rounds) == 1:
        return rounds[0]
    following = []
    for before, after in zip(rounds, rounds[1:]):
        end = before.greedy()[:, -1]
        width = after.first.shape[1]
        link = after.first.new_zeros(len(end), 1, width, width)
        link[torch.arange(len(end), device=end.device), 0, end] = after.first
        following += [before.following, link]
    following.append(rounds[-1].following)
    return Candidates(torch.cat([r.tokens for r in rounds], 1), rounds[0].first, torch.cat(following, 1))
