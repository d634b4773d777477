"""The authors' layout, from synthetic files of it: the converted draft computes what theirs does."""

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vllm_specflash.draft.attention import dense_causal_attention, rotate
from vllm_specflash.train.convert import convert_authors_checkpoint

SIZE, HEADS, GROUPS, WIDTH = 32, 8, 2, 3
HEAD_DIM = SIZE // HEADS


@pytest.fixture
def theirs() -> dict[str, Tensor]:
    torch.manual_seed(0)
    rows = {"q": SIZE, "k": GROUPS * HEAD_DIM, "v": GROUPS * HEAD_DIM, "o": SIZE}
    weights = {"fc.weight": torch.randn(SIZE, 2 * SIZE), "fc.bias": torch.randn(SIZE), "A": torch.randn(6, SIZE)}
    for name, count in rows.items():
        weights[f"layers.{name}_proj.weight"] = torch.randn(count, SIZE) * 0.3
        weights[f"layers.{name}_proj.bias"] = torch.randn(count)
    weights["layers.ar_proj.0.weight"], weights["layers.ar_proj.0.bias"] = torch.randn(4 * SIZE, SIZE), torch.randn(4 * SIZE)
    weights["layers.ar_proj.2.weight"] = torch.randn(WIDTH * SIZE, 4 * SIZE)
    weights["layers.ar_proj.2.bias"] = torch.randn(WIDTH * SIZE)
    return {**weights, "embed_tokens.weight": torch.randn(50, SIZE)}


def _their_forward(weights: dict[str, Tensor], u: Tensor) -> Tensor:
    """Their layer, written out: every query head attends to every KV head, and the results are added."""

    def heads(name: str) -> Tensor:
        x = u @ weights[f"layers.{name}_proj.weight"].T + weights[f"layers.{name}_proj.bias"]
        return x.view(len(u), -1, HEAD_DIM)

    positions = torch.arange(len(u))
    q, k, v = rotate(heads("q"), positions, 10000.0), rotate(heads("k"), positions, 10000.0), heads("v")
    scores = torch.einsum("ihd,jgd->hgij", q, k) * HEAD_DIM**-0.5
    scores = scores.masked_fill(torch.ones(len(u), len(u)).triu(1).bool(), float("-inf"))
    attended = torch.einsum("hgij,jgd->ihd", scores.softmax(-1), v).flatten(1)
    x = attended @ weights["layers.o_proj.weight"].T + weights["layers.o_proj.bias"]
    inner = x @ weights["layers.ar_proj.0.weight"].T + weights["layers.ar_proj.0.bias"]
    return (inner.sigmoid() * inner @ weights["layers.ar_proj.2.weight"].T + weights["layers.ar_proj.2.bias"]).view(
        len(u), WIDTH, SIZE
    )


@pytest.mark.parametrize("kv_heads", [2, 4, 8])
def test_converted_draft_computes_the_same(tmp_path, theirs, kv_heads):
    save_file(theirs, tmp_path / "model.safetensors")
    draft, report = convert_authors_checkpoint(tmp_path, HEADS, kv_heads, "llava", 50)
    assert (draft.config.num_key_value_heads, draft.config.num_attention_heads) == (kv_heads, HEADS * GROUPS)
    assert (draft.config.semi_ar_width, draft.config.num_latents, draft.config.variant) == (WIDTH, 6, "plain")
    u = torch.randn(1, 7, SIZE)
    ours = draft.predict(draft.layer(u, torch.arange(7)[None], dense_causal_attention))[0]
    torch.testing.assert_close(ours, _their_forward(theirs, u[0]), atol=1e-3, rtol=1e-3)
    assert report.dropped == ["embed_tokens.weight"]


def test_a_missing_tensor_is_named(tmp_path, theirs):
    del theirs["A"]
    torch.save(theirs, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="not the authors' plain layout: A missing"):
        convert_authors_checkpoint(tmp_path, HEADS, 2, "llava", 50)


def test_head_counts_that_cannot_be_laid_out_are_refused(tmp_path, theirs):
    save_file(theirs, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="8 query and 2 KV heads cannot be laid out over the target's 3 KV heads"):
        convert_authors_checkpoint(tmp_path, HEADS, 3, "llava", 50)
