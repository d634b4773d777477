"""A draft over another vocabulary predicts the same for the tokens that both can propose; drafts are read or refused."""

from pathlib import Path

import pytest
import torch
from drafts import draft_for

from vllm_specflash.config import SpecFlashError
from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft
from vllm_specflash.train.shape import read_draft, with_feed_forward, with_layers, with_selector, with_vocabulary


def test_a_smaller_vocabulary_keeps_the_rest_of_the_draft():
    torch.manual_seed(0)
    config = SpecFlashConfig(
        hidden_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=16, semi_ar_width=3, num_latents=4,
        draft_vocab_size=40, transition_rank=8, target_vocab_size=100,
    )  # fmt: skip
    draft = SpecFlashDraft(config)
    draft.d2t.copy_(torch.arange(0, 80, 2))
    torch.nn.init.normal_(draft.transition.following)
    wanted = torch.tensor([3, 10, 12, 44, 78])

    smaller = with_vocabulary(draft, wanted)

    x, lm_head = torch.randn(6, 32), torch.randn(100, 32)
    assert torch.equal(smaller.predict(x), draft.predict(x))
    assert torch.equal(smaller.draft_lm_head(lm_head), lm_head[wanted])
    assert smaller.config.draft_vocab_size == 5 and draft.config.draft_vocab_size == 40
    # Rows of 10, 12, 44 and 78 in the larger one; 3 is new and corrects nothing.
    states = torch.randn(2, 32)
    before = draft.transition(torch.tensor([[6]]), torch.tensor([[5, 6, 22, 39]]), states)[0, 0]
    after = smaller.transition(torch.tensor([[2]]), torch.arange(5)[None], states)[0, 0]
    torch.testing.assert_close(after, torch.cat((torch.zeros(1), before)))
    assert not smaller.transition(torch.tensor([[0]]), torch.arange(5)[None], states).any()


def test_a_new_selector_changes_nothing_yet_and_learns():
    torch.manual_seed(0)
    draft = SpecFlashDraft(SpecFlashConfig(
        hidden_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=16, semi_ar_width=3, transition_rank=8,
        target_vocab_size=100,
    ))  # fmt: skip
    torch.nn.init.normal_(draft.transition.following)
    wider = with_selector(draft, 16)
    states, tokens = torch.randn(3, 32), torch.randint(0, 100, (2, 4))
    assert torch.equal(wider.transition(tokens, tokens, states), draft.transition(tokens, tokens, states))
    assert torch.equal(wider.head.up_proj.weight, draft.head.up_proj.weight) and wider.config.selector_width == 16
    wider.transition(tokens, tokens, states).square().sum().backward()
    assert wider.transition.selector.out_weight.grad.abs().max() > 0


def test_a_new_feed_forward_block_changes_nothing_yet_and_learns():
    torch.manual_seed(0)
    draft = SpecFlashDraft(SpecFlashConfig(
        hidden_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=16, semi_ar_width=3, target_vocab_size=100
    ))  # fmt: skip
    grown, u, attended = with_feed_forward(draft, 24), torch.randn(5, 32), torch.randn(5, 32)
    assert torch.equal(grown.after_attention(u, attended), draft.after_attention(u, attended))
    assert torch.equal(grown.head.up_proj.weight, draft.head.up_proj.weight) and grown.config.feed_forward == 24
    grown.after_attention(u, attended).square().sum().backward()
    assert grown.feed_forward.down_proj.weight.grad.abs().max() > 0


def test_new_layers_change_nothing_yet_and_are_learnt_from():
    torch.manual_seed(0)
    draft = SpecFlashDraft(SpecFlashConfig(
        hidden_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=16, semi_ar_width=3, target_vocab_size=100
    ))  # fmt: skip
    grown, embeddings, hidden = with_layers(draft, [1, 3]), torch.randn(5, 32), torch.randn(5, 3 * 32)
    torch.testing.assert_close(grown.fuse(embeddings, hidden), draft.fuse(embeddings, hidden[:, :32]))
    assert torch.equal(grown.head.up_proj.weight, draft.head.up_proj.weight) and grown.config.target_layers == [1, 3]
    grown.fuse(embeddings, hidden).square().sum().backward()
    assert (grown.fc.weight.grad[:, 64:].abs().amax(0) > 0).all()
    with pytest.raises(SpecFlashError, match=r"has a target_layers of \[1, 3\] already"):
        with_layers(grown, [2])


def test_a_draft_of_another_target_or_none_is_refused_in_one_sentence(llama, tmp_path):
    fitting = draft_for(Path(llama.path), tmp_path / "fitting")
    assert read_draft(fitting, llama).dtype == torch.float32
    other = draft_for(Path(llama.path), tmp_path / "other", target_vocab_size=50)
    with pytest.raises(SpecFlashError, match="hidden size 128 and 50 tokens, and .* has 128 and [0-9]+: name a draft of"):
        read_draft(other, llama)
    with pytest.raises(SpecFlashError, match="no draft at '.*nowhere' that can be read .*: name a folder"):
        read_draft(tmp_path / "nowhere", llama)
    (fitting / "model.safetensors").write_bytes(b"half")
    with pytest.raises(SpecFlashError, match="no draft at .* that can be read"):
        read_draft(fitting, llama)
