"""The checkpoint format: what is refused, and what survives a save and a load."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft

SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "target_vocab_size": 50}


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("semi_ar_width", 0, "semi_ar_width must be at least 1, not 0."),
        ("num_latents", -1, "num_latents must not be negative, not -1."),
        ("pool_length", 0, "pool_length must be at least 1, or null for whole spans, not 0."),
        ("variant", "eagle", "variant must be one of residual, plain, not 'eagle'."),
        ("num_key_value_heads", 3, "must be a multiple of its num_key_value_heads (3)."),
        ("head_dim", 7, "head_dim must be even for rotary positions, not 7."),
        ("transition_rank", -1, "transition_rank must not be negative, not -1."),
        ("feed_forward", -1, "feed_forward must not be negative, not -1."),
        ("draft_vocab_size", 51, "draft_vocab_size must lie between 1 and target_vocab_size (50), not 51."),
    ],
)
def test_a_wrong_field_is_named_in_one_sentence(field, value, sentence):
    with pytest.raises(ValueError) as error:
        SpecFlashConfig(**{**SMALL, field: value})
    assert str(error.value).endswith(sentence) and str(error.value).count("\n") == 0


@pytest.mark.parametrize("extra", [{}, {"draft_vocab_size": 20, "transition_rank": 3}, {"variant": "plain"}, {"feed_forward": 24}])
def test_a_checkpoint_comes_back_bit_for_bit(tmp_path, extra):
    draft = SpecFlashDraft(SpecFlashConfig(**SMALL, **extra)).to(torch.bfloat16)
    if "draft_vocab_size" in extra:
        draft.d2t.copy_(torch.randperm(50)[:20].sort().values)
    draft.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "specflash"
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, SpecFlashDraft) and loaded.dtype == torch.bfloat16
    before, after = draft.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_embeddings_and_lm_head_are_not_stored():
    draft = SpecFlashDraft(SpecFlashConfig(**SMALL, draft_vocab_size=20))
    assert not any(50 in value.shape for value in draft.state_dict().values())
