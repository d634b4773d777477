"""How the losses of the offsets add up."""

import pytest
import torch

from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft
from vllm_specflash.draft.compressor import Pooling
from vllm_specflash.train.batch import collate
from vllm_specflash.train.loss import LossOptions, draft_losses
from vllm_specflash.train.target import Sample

WIDTH, SIZE, VOCABULARY, DECAY = 3, 16, 40, 0.5
# Of the offsets, nearest first: what the n-th is worth, 0.5 to the power n - 1, of 1.75 in all.
SHARES = [4 / 7, 2 / 7, 1 / 7]


@pytest.mark.parametrize("offset", range(WIDTH))
@pytest.mark.parametrize("weights", [{"smooth_l1": 1.0, "cross_entropy": 0.0}, {"smooth_l1": 0.0, "cross_entropy": 1.0}])
def test_nearer_offsets_weigh_more(offset, weights):
    """An error is worth the offset it is at: the first of a draft decides whether the others count at all."""
    torch.manual_seed(0)
    draft = SpecFlashDraft(
        SpecFlashConfig(hidden_size=SIZE, num_attention_heads=2, num_key_value_heads=1, head_dim=8, semi_ar_width=WIDTH)
    )
    batch = collate([Sample("s", "chat", torch.randint(0, VOCABULARY, (14,)), 5, [], {}, True)], Pooling(4), WIDTH)
    hidden, lm_head = torch.randn(1, 14, SIZE), torch.randn(VOCABULARY, SIZE)
    options = LossOptions(negatives=0, noise=0.0, offset_decay=DECAY, **weights)
    right = hidden[0, batch.targets()]
    wrong = right.clone()
    wrong[:, offset] += torch.randn(SIZE)
    before, after = (draft_losses(draft, batch, states, hidden, lm_head, None, options) for states in (right, wrong))
    moved = (after.smooth_l1 - before.smooth_l1) if weights["smooth_l1"] else (after.cross_entropy - before.cross_entropy)
    assert moved[offset] > 0.1 and moved.count_nonzero() == 1
    torch.testing.assert_close(after.total - before.total, SHARES[offset] * moved[offset], rtol=1e-4, atol=1e-6)
