"""The authors' layout, from synthetic files of it: the converted draft computes what theirs does."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from vllm_specflash.cli import app
from vllm_specflash.config import SpecFlashError
from vllm_specflash.draft import SpecFlashDraft
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
    draft, report = _convert(tmp_path, kv_heads)
    assert (draft.config.num_key_value_heads, draft.config.num_attention_heads) == (kv_heads, HEADS * GROUPS)
    assert (draft.config.semi_ar_width, draft.config.num_latents, draft.config.variant) == (WIDTH, 6, "plain")
    u = torch.randn(1, 7, SIZE)
    ours = draft.predict(draft.layer(u, torch.arange(7)[None], dense_causal_attention))[0]
    torch.testing.assert_close(ours, _their_forward(theirs, u[0]), atol=1e-3, rtol=1e-3)
    assert report.dropped == ["embed_tokens.weight [50, 32]"]


def _convert(source, kv_heads: int, heads: int = HEADS, size: int = SIZE):
    return convert_authors_checkpoint(source, heads, kv_heads, HEAD_DIM, "llava", size, 50)


def test_the_report_names_every_tensor_of_both_sides(tmp_path, theirs):
    save_file({**theirs, "fc2.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    draft, report = _convert(tmp_path, GROUPS)
    assert {one.ours for one in report.mapped} == {f"{n} {list(t.shape)}" for n, t in draft.state_dict().items()}
    named = [name.split(" ")[0] for one in report.mapped for name in one.theirs]
    assert sorted(named) == sorted(set(theirs) - {"embed_tokens.weight"})
    assert report.dropped == ["embed_tokens.weight [50, 32]", "fc2.weight [2]"]
    assert any("16 query and 2 KV heads" in note for note in report.notes)


def test_the_command_writes_a_draft_that_loads_and_says_what_was_mapped(tmp_path, llama):
    """The layout at a real target's sizes, 64 latents as published."""
    size, heads, head_dim = 128, 4, 32
    torch.manual_seed(0)
    weights = {"fc.weight": torch.randn(size, 2 * size), "fc.bias": torch.randn(size), "A": torch.randn(64, size)}
    for name in "qkvo":
        weights[f"module.layers.{name}_proj.weight"] = torch.randn(size if name in "qo" else 2 * head_dim, size)
        weights[f"module.layers.{name}_proj.bias"] = torch.randn(size if name in "qo" else 2 * head_dim)
    for layer, (rows, columns) in {0: (4 * size, size), 2: (5 * size, 4 * size)}.items():
        weights[f"layers.ar_proj.{layer}.weight"] = torch.randn(rows, columns)
        weights[f"layers.ar_proj.{layer}.bias"] = torch.randn(rows)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    command = ["convert", "--source", str(tmp_path), "--target", llama.path, "--out", str(tmp_path / "out")]
    run = CliRunner().invoke(app, [*command, "--num-attention-heads", str(heads)])
    assert run.exit_code == 0, run.output
    assert "A [64, 128]" in run.output and "compressor.queries [64, 128]" in run.output and "K = 5, M = 64" in run.output
    draft = SpecFlashDraft.from_pretrained(tmp_path / "out")
    assert (draft.config.num_latents, draft.config.semi_ar_width, draft.config.variant) == (64, 5, "plain")
    assert torch.equal(draft.fc.bias.float(), weights["fc.bias"].bfloat16().float())
    facts = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert facts["mapped"][0] == {"ours": "compressor.queries [64, 128]", "theirs": ["A [64, 128]"]}


def test_a_missing_tensor_is_named(tmp_path, theirs):
    del theirs["A"]
    torch.save(theirs, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"not the authors' plain layout \(A missing\)"):
        _convert(tmp_path, 2)


def test_head_counts_that_cannot_be_laid_out_are_refused(tmp_path, theirs):
    save_file(theirs, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="8 query and 2 KV heads cannot be laid out over the target's 3 KV heads"):
        _convert(tmp_path, 3)


def test_a_source_of_another_target_is_refused(tmp_path, theirs):
    save_file(theirs, tmp_path / "model.safetensors")
    with pytest.raises(SpecFlashError, match="trained for hidden size 32, and llava has 64: name the target"):
        _convert(tmp_path, 2, size=64)
    with pytest.raises(SpecFlashError, match="32 query rows are not 4 heads of the target's 4: give .*--num-attention-heads"):
        _convert(tmp_path, 2, heads=4)


def test_what_cannot_be_read_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(SpecFlashError, match="There is no .*nowhere: name a file or folder"):
        _convert(tmp_path / "nowhere", 2)
    with pytest.raises(SpecFlashError, match="no weights .* in .*: name the folder"):
        _convert(tmp_path, 2)
    (tmp_path / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(SpecFlashError, match="model.safetensors could not be read .*: copy it here again"):
        _convert(tmp_path, 2)
