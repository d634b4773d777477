"""The network's arithmetic, against formulas written out."""

import copy

import pytest
import torch

from vllm_specflash.draft.candidates import candidates_of
from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft
from vllm_specflash.draft.attention import dense_causal_attention, rotate

SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "target_vocab_size": 50}


def _draft(**fields) -> SpecFlashDraft:
    torch.manual_seed(0)
    return SpecFlashDraft(SpecFlashConfig(**SMALL, initializer_range=0.3, **fields))


def test_latents_are_softmax_of_queries_times_features():
    compressor = _draft(num_latents=5).compressor
    features = torch.randn(11, 32)
    expected = torch.softmax(compressor.queries.double() @ features.double().T, -1) @ features.double()
    torch.testing.assert_close(compressor(features).double(), expected, atol=1e-5, rtol=1e-5)


def test_a_short_span_leaves_no_more_latents_than_it_has_positions():
    compressor = _draft(num_latents=5).compressor
    features = torch.randn(3, 32)
    assert compressor(features).shape == (3, 32)
    torch.testing.assert_close(compressor(features)[0], torch.softmax(compressor.queries[0] @ features.T, -1) @ features)


def test_rotation_keeps_norms_and_depends_on_distance_only():
    q, k = torch.randn(1, 1, 8), torch.randn(1, 1, 8)

    def product(query_position: int, key_position: int) -> torch.Tensor:
        q_at, k_at = (rotate(x, torch.tensor([p]), 100.0) for x, p in ((q, query_position), (k, key_position)))
        return (q_at * k_at).sum()

    torch.testing.assert_close(rotate(q, torch.tensor([1000]), 100.0).norm(), q.norm())
    torch.testing.assert_close(product(7, 3), product(1007, 1003), atol=1e-4, rtol=1e-4)
    assert abs(product(7, 3) - product(7, 4)) > 1e-3


def test_positions_in_bfloat16_are_told_apart_beyond_256():
    heads = torch.randn(1, 1, 8, dtype=torch.bfloat16)
    one, next_one = (rotate(heads, torch.tensor([p]), 10000.0) for p in (4000, 4001))
    assert not torch.equal(one, next_one)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("ranks", [2, 4])
def test_shares_of_the_heads_sum_up_to_the_layer(ranks, bias):
    """Two KV heads over four ranks: each is kept twice."""
    x, positions = torch.randn(1, 9, 32), torch.arange(9)[None]
    whole = _draft(attention_bias=bias).attention
    for name in ("qkv_proj", "o_proj"):
        if bias:
            torch.nn.init.normal_(getattr(whole, name).bias)
    shares = []
    for rank in range(ranks):
        share = copy.deepcopy(whole)
        share.keep_share(rank, ranks)
        q, k, v = share.project(x, positions)
        assert q.shape[-2] == 4 // ranks and k.shape == v.shape == (1, 9, 1, 8)
        shares.append(share.output(dense_causal_attention(q, k, v)))
    torch.testing.assert_close(sum(shares), whole.output(dense_causal_attention(*whole.project(x, positions))))


@pytest.mark.parametrize("variant", ["residual", "plain"])
def test_layer_is_causal(variant):
    draft, u = _draft(variant=variant), torch.randn(1, 9, 32)
    positions = torch.arange(9)[None]
    x = draft.layer(u, positions, dense_causal_attention)
    changed = u.clone()
    changed[0, 6] += 1
    difference = (draft.layer(changed, positions, dense_causal_attention) - x).abs().amax(-1)[0]
    assert difference[:6].max() == 0 and difference[6:].min() > 1e-4


def test_residual_variant_adds_what_the_plain_one_replaces():
    draft, x = _draft(), torch.randn(3, 32)
    torch.testing.assert_close(draft.predict(x), x[:, None] + draft.head(draft.head_norm(x)))
    plain = _draft(variant="plain")
    assert not hasattr(plain, "head_norm")
    torch.testing.assert_close(plain.predict(x), plain.head(x))


@pytest.mark.parametrize("variant", ["residual", "plain"])
def test_a_feed_forward_block_adds_what_it_makes_of_each_row(variant):
    draft, without = _draft(variant=variant, feed_forward=24), _draft(variant=variant)
    without.load_state_dict({name: w for name, w in draft.state_dict().items() if not name.startswith("feed_forward")})
    u, positions = torch.randn(1, 7, 32), torch.arange(7)[None]
    x = without.layer(u, positions, dense_causal_attention)
    assert torch.equal(draft.layer(u, positions, dense_causal_attention), x), "an untrained block changes something"
    block = draft.feed_forward
    torch.nn.init.normal_(block.norm.weight)
    torch.nn.init.normal_(block.down_proj.weight)
    normed = x / (x.square().mean(-1, keepdim=True) + draft.config.rms_norm_eps).sqrt() * block.norm.weight
    gate, up = block.gate_up_proj.weight[:24] @ normed.mT, block.gate_up_proj.weight[24:] @ normed.mT
    wanted = x + (block.down_proj.weight @ (gate * torch.sigmoid(gate) * up)).mT
    torch.testing.assert_close(draft.layer(u, positions, dense_causal_attention), wanted, atol=1e-4, rtol=1e-4)
    rows = torch.tensor([6, 2])
    attended = dense_causal_attention(*draft.attention.project(draft.normed(u), positions))
    torch.testing.assert_close(draft.after_attention(u[:, rows], attended[:, rows]), wanted[:, rows], atol=1e-4, rtol=1e-4)


def test_reduced_vocabulary_takes_the_named_rows():
    draft = _draft(draft_vocab_size=4)
    draft.d2t.copy_(torch.tensor([3, 7, 20, 49]))
    lm_head = torch.randn(50, 32)
    assert torch.equal(draft.draft_lm_head(lm_head), lm_head[[3, 7, 20, 49]])
    assert draft.to_target_ids(torch.tensor([[0, 3]])).tolist() == [[3, 49]]


def test_an_untrained_transition_changes_nothing_and_a_trained_one_only_what_follows():
    draft = _draft(draft_vocab_size=4, transition_rank=2)
    logits = torch.tensor([[[0.0, 3, 1, 2], [0, 3, 1, 2], [3, 0, 1, 2]]])
    assert candidates_of(draft, logits, logits, 4).chain().tolist() == [[1, 1, 0]]
    with torch.no_grad():
        # After draft token 1, token 2 gains 5.
        draft.transition.previous.zero_()[1, 0] = 1.0
        draft.transition.following[2, 0] = 5.0
    assert candidates_of(draft, logits, logits, 4).chain().tolist() == [[1, 2, 0]]
