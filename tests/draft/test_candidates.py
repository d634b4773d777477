"""Candidates: the likeliest tokens per position and their chances, one given the other."""

import torch

from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft
from vllm_specflash.draft.candidates import candidates_of, joined


def _draft(**fields) -> SpecFlashDraft:
    torch.manual_seed(0)
    shape = dict(hidden_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=8, target_vocab_size=60)
    return SpecFlashDraft(SpecFlashConfig(**shape, **fields)).double().requires_grad_(False)


def test_chances_are_those_of_the_whole_vocabulary():
    draft = _draft(transition_rank=4)
    torch.nn.init.normal_(draft.transition.previous)
    torch.nn.init.normal_(draft.transition.following)
    logits = 2 * torch.randn(3, 4, 60, dtype=torch.float64)
    found = candidates_of(draft, logits, logits, 60)
    torch.testing.assert_close(found.first.sum(-1), torch.ones(3), rtol=1e-5, atol=1e-5)
    for position in range(3):
        exact = logits[:, position + 1, None] + draft.transition.previous[found.tokens[:, position]] @ draft.transition.following.T
        exact = exact.softmax(-1).gather(2, found.tokens[:, position + 1, None].expand(-1, 60, -1))
        torch.testing.assert_close(found.following[:, position], exact.float(), rtol=1e-4, atol=1e-6)


def test_a_few_candidates_keep_their_share_of_the_whole():
    draft = _draft()
    logits = 2 * torch.randn(2, 3, 60, dtype=torch.float64)
    found = candidates_of(draft, logits, logits, 5)
    top = logits.softmax(-1).topk(5)
    assert torch.equal(found.tokens, top.indices)
    torch.testing.assert_close(found.first, top.values[:, 0].float())
    torch.testing.assert_close(found.following, top.values[:, 1:, None].float().expand(-1, -1, 5, -1))


def test_nonsense_has_no_chance():
    logits = torch.randn(2, 3, 60, dtype=torch.float64)
    logits[1] = torch.nan
    found = candidates_of(_draft(transition_rank=4), logits, logits, 5)
    assert (found.first[1] == 0).all() and (found.following[1] == 0).all()
    assert (found.first[0] > 0).all()
    assert ((found.tokens >= 0) & (found.tokens < 60)).all()


def test_a_later_round_follows_the_greedy_path_alone():
    draft = _draft()
    before, after = (candidates_of(draft, logits, logits, 4) for logits in torch.randn(2, 2, 3, 60, dtype=torch.float64))
    both = joined([before, after])
    assert both.tokens.shape == (2, 6, 4) and both.following.shape == (2, 5, 4, 4)
    end = before.greedy()[:, -1]
    for request in range(2):
        link = both.following[request, 2]
        assert torch.equal(link[end[request]], after.first[request])
        assert link.sum() == after.first[request].sum()
    assert torch.equal(both.chain(), torch.cat((before.chain(), after.chain()), 1))


def test_what_follows_a_token_depends_on_the_states_where_there_is_a_selector():
    draft = _draft(transition_rank=4, selector_width=8, semi_ar_width=3)
    states = torch.randn(2, 3, 16, dtype=torch.float64)
    logits = states @ torch.randn(16, 60, dtype=torch.float64)
    plain = candidates_of(draft, states, logits, 6)
    torch.nn.init.normal_(draft.transition.previous)
    torch.nn.init.normal_(draft.transition.following)
    tokens_alone = candidates_of(draft, states, logits, 6)
    torch.nn.init.normal_(draft.transition.selector.out_weight)
    selected = candidates_of(draft, states, logits, 6)
    for found in (tokens_alone, selected):
        assert torch.equal(found.tokens, plain.tokens) and torch.equal(found.first, plain.first)
        assert (found.following.sum(-1) <= 1 + 1e-6).all()
    assert not torch.allclose(selected.following, tokens_alone.following, atol=1e-2)
    # A position's correction sees its own state and the one before it, and none after.
    later = states.clone()
    later[:, 2] += 1
    moved = (draft.transition(selected.tokens[:, :-1], selected.tokens[:, 1:], later)
             - draft.transition(selected.tokens[:, :-1], selected.tokens[:, 1:], states)).abs().amax((0, 2, 3))
    assert moved[0] == 0 and moved[1] > 0


def test_an_untrained_selector_changes_nothing():
    draft = _draft(transition_rank=4, selector_width=8)
    torch.nn.init.normal_(draft.transition.previous)
    tokens = torch.randint(0, 60, (2, 2, 5))
    states = torch.randn(2, 3, 16, dtype=torch.float64)
    assert torch.equal(draft.transition.guess(tokens, states), draft.transition.previous[tokens])
