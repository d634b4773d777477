"""Simulated acceptance: what the draft proposes against the target's own greedy answer, without serving."""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.draft.attention import dense_causal_attention
from vllm_specflash.draft.candidates import CANDIDATES, Candidates, candidates_of, joined
from vllm_specflash.train.batch import Batch
from vllm_specflash.train.forward import compressed_inputs
from vllm_specflash.train.target import Sample
from vllm_specflash.tree.build import best_trees
from vllm_specflash.triton_kernels.find_copies import Copies, find_copies
from vllm_specflash.triton_kernels.mix_copies import WEIGHTS

# Of chances, for the calibration error.
CHANCE_BINS = 15


@dataclass
class Acceptance:
    """Counts over target forwards; two of them add up.

    Attributes:
        steps: target forwards after the first token of each answer.
        emitted: tokens they gave.
        accepted_at: [chain length] forwards in which that position of the chain was accepted.
        decided: [CHANCE_BINS, 3] of the drafted tokens that the target decided on, by the chance the draft gave them: how many,
            the sum of their chances, how many were accepted. Zeros where chances are not known.
    """

    steps: int
    emitted: int
    accepted_at: Tensor
    decided: Tensor = field(default_factory=lambda: torch.zeros(CHANCE_BINS, 3))

    def __add__(self, other: "Acceptance") -> "Acceptance":
        # Copies make the drafts of one answer longer than another's.
        longest = max(len(self.accepted_at), len(other.accepted_at))
        mine, theirs = (F.pad(part.accepted_at, (0, longest - len(part.accepted_at))) for part in (self, other))
        return Acceptance(self.steps + other.steps, self.emitted + other.emitted, mine + theirs, self.decided + other.decided)

    @property
    def tau(self) -> float:
        """Mean tokens emitted per target forward, the bonus token included."""
        return self.emitted / max(self.steps, 1)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: how far a chance lies from the share accepted, as a mean over the tokens decided on."""
        count, expected, accepted = self.decided.T
        return float((expected - accepted).abs().sum() / count.sum().clamp(min=1))

    @property
    def per_position(self) -> list[float]:
        """Share of forwards in which position 1, 2, ... of the chain was accepted."""
        return (self.accepted_at / max(self.steps, 1)).tolist()


def _continue_attention(keys: Tensor, values: Tensor, last: Tensor, k: Tensor, v: Tensor, q: Tensor) -> Tensor:
    """Attention of chains that branch off a sequence: chain p sees its rows <= last[p] and, causally, its own.

    keys, values [S, Hkv, Dh] of the sequence; k, v [P, C, Hkv, Dh] of the chains so far; q [P, Q, H, Dh] of their
    last Q rows -> [P, Q, H, Dh].
    """
    chains, own, queries = k.shape[0], k.shape[1], q.shape[1]
    rows = keys.shape[0]
    seen = torch.arange(rows, device=q.device) <= last[:, None]
    causal = torch.ones(queries, own, dtype=torch.bool, device=q.device).tril(own - queries)
    mask = torch.cat((seen[:, None].expand(-1, queries, -1), causal.expand(chains, -1, -1)), dim=-1)
    every_k = torch.cat((keys.expand(chains, -1, -1, -1), k), dim=1)
    every_v = torch.cat((values.expand(chains, -1, -1, -1), v), dim=1)
    attended = F.scaled_dot_product_attention(
        q.transpose(1, 2), every_k.transpose(1, 2), every_v.transpose(1, 2), mask[:, None], enable_gqa=True
    )
    return attended.transpose(1, 2)


@torch.no_grad()
def drafted(
    draft: SpecFlashDraft,
    batch: Batch,
    hidden: Tensor,
    embedding: Tensor,
    lm_head: Tensor,
    rounds: int,
    width: int = CANDIDATES,
    visual: Tensor | None = None,
) -> Candidates:
    """What R rounds propose at every trained position of a batch of one sample: P rows, L = R * K.

    Row p stands at target position t and guesses x_{t+2}, x_{t+3}, ...; lm_head is the draft's, [V_d, D]; visual as in
    `compressed_inputs`.
    """
    if batch.shape[0] != 1:
        raise ValueError("Drafts are simulated one sample at a time.")
    sequence = {}

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        sequence.update(k=k[0], v=v[0])
        return dense_causal_attention(q, k, v)

    u = compressed_inputs(draft, batch, hidden, embedding, visual)
    x = draft.layer(u, torch.arange(u.shape[1], device=u.device)[None], attend)[0, batch.answer_rows]
    rows, proposed, chain_k, chain_v = batch.answer_rows, [], [], []
    while True:
        states = draft.predict(x)
        proposed.append(candidates_of(draft, states, F.linear(states, lm_head), width))
        if len(proposed) == rounds:
            return joined(proposed)

        def attend_chain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            chain_k.append(k)
            chain_v.append(v)
            own_k, own_v = torch.cat(chain_k, dim=1), torch.cat(chain_v, dim=1)
            return _continue_attention(sequence["k"], sequence["v"], batch.answer_rows, own_k, own_v, q)

        tokens = proposed[-1].chain()
        positions = rows[:, None] + torch.arange(1, tokens.shape[1] + 1, device=rows.device)
        x = draft.layer(draft.fuse(embedding[tokens].to(states.dtype), states), positions, attend_chain)[:, -1]
        rows = positions[:, -1]


def copies_of(sample: Sample, rows: int, depth: int) -> Copies:
    """What the sample's own text says may come next, `depth` tokens each, where the first 1, 2, ... `rows` tokens of its answer are known."""
    ends = sample.answer_start + 1 + torch.arange(rows, dtype=torch.int32)
    text = sample.input_ids.cpu().int()[None]
    return find_copies(text, torch.zeros_like(ends), ends, depth, int(text.max()) + 1)


def with_copies(candidates: Candidates, sample: Sample, depth: int) -> Candidates:
    """These and copies of so many tokens, as an engine's drafting core mixes them."""
    on_host = Candidates(*(part.cpu() for part in candidates))
    return on_host.with_copies(copies_of(sample, len(candidates.first), depth), torch.tensor(WEIGHTS))


def walk(chains: Tensor, answer: Tensor, chances: Tensor | None = None) -> Acceptance:
    """Speculative decoding of one greedy answer.

    answer [n] token ids; chains [n - 1, C]: row p was drafted when answer[: p + 1] was committed and guesses
    answer[p + 1 :]; chances [n - 1, C] that the draft gave them. The first token comes from the prefill and is not counted.
    """
    done, steps, decided = 1, 0, torch.zeros(CHANCE_BINS, 3)
    accepted_at = torch.zeros(chains.shape[1], dtype=torch.long)
    while done < len(answer):
        steps += 1
        guesses = chains[done - 1, : len(answer) - done]
        right = (guesses == answer[done : done + len(guesses)]).long().cumprod(0)
        accepted_at[: len(right)] += right
        if chances is not None:
            # The first one rejected is decided on too, and nothing after it.
            given = chances[done - 1, : min(int(right.sum()) + 1, len(right))]
            facts = torch.stack((torch.ones_like(given), given, right[: len(given)].to(given.dtype)), 1)
            decided.index_add_(0, (given * CHANCE_BINS).long().clamp(max=CHANCE_BINS - 1), facts)
        done += min(int(right.sum()) + 1, len(answer) - done)
    return Acceptance(steps, len(answer) - 1, accepted_at, decided)


def walk_trees(candidates: Candidates, answer: Tensor, num_nodes: int) -> Acceptance:
    """The same with the best tree of `num_nodes` drafted tokens in every step, by depth."""
    trees = best_trees(candidates.first.cpu().numpy(), candidates.following.cpu().numpy(), num_nodes)
    tokens = candidates.tokens.cpu().numpy()
    said = answer.cpu().numpy()
    done, steps = 1, 0
    accepted_at = torch.zeros(tokens.shape[1], dtype=torch.long)
    while done < len(said):
        row, at, length = done - 1, -1, 0
        steps += 1
        alive, parent = trees.chance[row] > 0, trees.parent[row]
        drafted_tokens = tokens[row, trees.depth[row] - 1, trees.candidate[row]]
        while done + length < len(said):
            next_node = np.flatnonzero(alive & (parent == at) & (drafted_tokens == said[done + length]))
            if not len(next_node):
                break
            at, length = int(next_node[0]), length + 1
        accepted_at[:length] += 1
        done += min(length + 1, len(said) - done)
    return Acceptance(steps, len(said) - 1, accepted_at)
