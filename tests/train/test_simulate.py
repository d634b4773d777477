"""Simulated acceptance: the walk, the chains, and the rounds."""

import torch
import torch.nn.functional as F
from tiny_models import KV_HEADS

from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft
from vllm_specflash.draft.candidates import Candidates
from vllm_specflash.draft.attention import dense_causal_attention
from vllm_specflash.draft.compressor import Pooling
from vllm_specflash.train.batch import collate
from vllm_specflash.train.forward import compressed_inputs
from vllm_specflash.train.simulate import drafted, walk, walk_trees
from vllm_specflash.train.target import Sample


def test_walk_counts_tokens_per_forward():
    answer = torch.tensor([5, 6, 7, 8, 9, 1])
    chains = torch.zeros(5, 2, dtype=torch.long)
    chains[0] = torch.tensor([6, 7])  # both right: 6 7 and the bonus 8
    chains[3] = torch.tensor([3, 1])  # wrong at once: only the bonus 9
    chains[4] = torch.tensor([1, 1])  # right, and the answer ends
    result = walk(chains, answer)
    assert (result.steps, result.emitted) == (3, 5)
    assert result.accepted_at.tolist() == [2, 1]
    assert result.tau == 5 / 3


def test_calibration_error_is_how_far_chances_are_off():
    answer = torch.tensor([5, 6, 7, 8, 9])
    chains = torch.tensor([[6, 7], [0, 0], [0, 0], [1, 9]])
    # Two accepted at 0.9, one rejected at 0.3; what comes after a rejected token is not decided on.
    chances = torch.tensor([[0.9, 0.9], [0.5, 0.5], [0.5, 0.5], [0.3, 0.9]])
    result = walk(chains, answer, chances)
    assert result.decided[:, 0].sum() == 3 and result.decided[:, 2].sum() == 2
    assert abs(result.calibration_error - (2 * 0.1 + 0.3) / 3) < 1e-6
    both = result + result
    assert both.decided[:, 0].sum() == 6 and abs(both.calibration_error - result.calibration_error) < 1e-6
    assert walk(chains, answer).calibration_error == 0


def test_a_draft_that_knows_everything_is_always_accepted():
    answer = torch.arange(13)
    chains = torch.stack([torch.arange(p + 1, p + 5) for p in range(12)])
    result = walk(chains, answer)
    assert (result.steps, result.emitted) == (3, 12) and result.per_position[0] == 1.0


def _draft(**fields) -> SpecFlashDraft:
    torch.manual_seed(0)
    return SpecFlashDraft(
        SpecFlashConfig(
            hidden_size=16, num_attention_heads=2 * KV_HEADS, num_key_value_heads=KV_HEADS, head_dim=8, semi_ar_width=3,
            num_latents=4, target_vocab_size=40, initializer_range=0.3, **fields,
        )
    )  # fmt: skip


def test_second_round_equals_committing_the_first():
    """Round 2 is a forward over the sequence with round 1's tokens and predicted states appended."""
    draft = _draft()
    torch.manual_seed(1)
    sample = Sample("s", "chat", torch.randint(0, 40, (15,)), 9, [(2, 6)], {}, True)
    hidden, embedding, lm_head = torch.randn(1, 15, 16), torch.randn(40, 16), torch.randn(40, 16)
    batch = collate([sample], Pooling(4), 3)
    chains = drafted(draft, batch, hidden, embedding, lm_head, rounds=3).chain()
    assert chains.shape == (5, 9)
    u = compressed_inputs(draft, batch, hidden, embedding)
    for p, row in enumerate(batch.answer_rows.tolist()):
        committed, guesses = u[:, : row + 1], []
        for _ in range(3):
            positions = torch.arange(committed.shape[1])[None]
            states = draft.predict(draft.layer(committed, positions, dense_causal_attention)[:, -1])
            tokens = F.linear(states, lm_head).argmax(-1)
            guesses += tokens[0].tolist()
            committed = torch.cat((committed, draft.fuse(embedding[tokens], states)), dim=1)
        assert chains[p].tolist() == guesses


def test_chains_are_in_target_ids():
    draft = _draft(draft_vocab_size=5)
    draft.d2t.copy_(torch.tensor([3, 10, 11, 30, 39]))
    sample = Sample("s", "chat", torch.randint(0, 40, (12,)), 5, [], {}, True)
    candidates = drafted(
        draft, collate([sample], Pooling(4), 3), torch.randn(1, 12, 16), torch.randn(40, 16), torch.randn(5, 16), rounds=2
    )
    assert set(candidates.tokens.flatten().tolist()) <= {3, 10, 11, 30, 39}


def test_trees_accept_what_chains_do_and_more():
    """The right second token is the draft's second choice: chains stop there, a tree of four nodes does not."""
    answer = torch.tensor([5, 6, 7, 8])
    candidates = Candidates(
        tokens=torch.tensor([[[6, 1], [2, 7]]]).expand(3, -1, -1),
        first=torch.tensor([[0.9, 0.05]]).expand(3, -1),
        following=torch.tensor([[[[0.6, 0.3], [0.6, 0.3]]]]).expand(3, -1, -1, -1),
    )
    torch.testing.assert_close(candidates.greedy_chances()[0], torch.tensor([0.9, 0.6]))
    chain, tree = walk(candidates.chain(), answer), walk_trees(candidates, answer, 4)
    assert (chain.steps, chain.accepted_at.tolist()) == (2, [1, 0])
    assert (tree.steps, tree.accepted_at.tolist(), tree.emitted) == (1, [1, 1], 3)
    assert walk_trees(candidates, answer, 2).accepted_at.tolist() == chain.accepted_at.tolist()
