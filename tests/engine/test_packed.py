"""Matrix products by vLLM's CPU kernels are those of torch."""

from pathlib import Path

import pytest
import torch
from engines import answers, draft_stats, engine, greedy, mixed_prompts, runner
from torch import nn

from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.draft.core import DraftingCore
from vllm_specflash.draft.head import Selector
from vllm_specflash.draft.linear import linear_of
from vllm_specflash.engine.packed import compute_by, pack
from vllm_specflash.triton_kernels.loops import _loops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inside, out, bias", [(576, 96, True), (32, 2048, False), (24, 7, True)])
def test_a_packed_layer_computes_the_same(dtype, inside, out, bias):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(inside, out, bias).to(dtype).requires_grad_(False))
    for rows in ((0,), (1,), (3, 5)):
        x = torch.randn(*rows, inside, dtype=dtype)
        expected = nn.functional.linear(x, *_weights(module[0]))
        packed = nn.Sequential(linear_of(*_weights(module[0])))
        pack(packed)
        # No second copy is kept. Not every CPU has a kernel for float16: there the layer stays as it is.
        assert packed[0].weight.numel() == 0 or dtype == torch.float16
        assert packed[0].weight.dtype == dtype
        found = packed(x)
        assert found.shape == expected.shape and found.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_and_selectors_compute_the_same(dtype, monkeypatch):
    torch.manual_seed(0)
    norm, selector = nn.RMSNorm(576, eps=1e-3), Selector(64, 32, 128)
    for weight in (norm.weight, selector.token_weight, selector.out_weight):
        nn.init.normal_(weight)
    model = nn.ModuleList((norm, selector)).to(dtype).requires_grad_(False)
    x, tokens, states = (torch.randn(*shape, dtype=dtype) for shape in ((3, 5, 576), (2, 4, 32, 64), (2, 5, 32)))
    # Rows that lie apart, as a part of what was read.
    x = 0.03 * x[:, ::2]
    expected, selected = norm(x), selector(tokens, states)
    pack(model)
    with monkeypatch.context() as without:
        without.setattr(nn.functional, "rms_norm", None)
        without.setattr(nn.functional, "linear", None)
        torch.testing.assert_close(norm(x), expected, rtol=1e-2, atol=1e-2)
        assert norm(x[:0]).shape == (0, 3, 576)
        torch.testing.assert_close(selector(tokens, states), selected, rtol=2e-2, atol=5e-2)


def test_a_norm_that_vllm_has_no_kernel_for_stays_torchs():
    norm, x = nn.RMSNorm(36).requires_grad_(False), torch.randn(2, 36)
    expected = norm(x)
    pack(norm)
    torch.testing.assert_close(norm(x), expected)


def test_no_kernel_is_asked_about_no_rows():
    """One of them ends the process then. More than two dimensions not every release flattens itself."""
    asked = []
    layer = linear_of(torch.ones(4, 3))
    pack(layer)
    layer.cpu_linear = lambda x, weight, bias: asked.append(x.shape) or x.new_zeros(len(x), 4)
    assert layer(torch.ones(0, 3)).shape == (0, 4) and layer(torch.ones(2, 5, 3)).shape == (2, 5, 4)
    assert asked == [(10, 3)]


def _weights(layer: nn.Linear) -> tuple:
    return layer.weight.clone(), None if layer.bias is None else layer.bias.clone()


def test_a_table_of_the_targets_is_not_packed_twice():
    torch.manual_seed(0)
    padded = nn.Linear(16, 64, bias=False).requires_grad_(False)
    weight = padded.weight.clone()
    pack(padded)
    lm_head = linear_of(weight[:50])
    compute_by(lm_head, padded)
    x = torch.randn(3, 16)
    torch.testing.assert_close(lm_head(x), x @ weight[:50].T)


@pytest.mark.parametrize("name", ["knowing", "random"])
def test_an_engine_packs_what_its_draft_computes_with(llava, drafts, name, monkeypatch, tmp_path):
    """And has compiled its loops and drafted once before the first request comes; of the file that the weights came from it keeps nothing in memory."""
    SpecFlashDraft.from_pretrained(drafts[name], dtype=torch.bfloat16).save_pretrained(tmp_path)
    for loop in _loops:
        vars(loop).pop("machine_code", None)
    measured, measure = [], DraftingCore.measure
    monkeypatch.setattr(DraftingCore, "measure", lambda core, *sizes: measured.append(sizes) or measure(core, *sizes))
    with engine(llava, tmp_path, dtype="bfloat16") as llm:
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
        assert all("machine_code" in vars(loop) for loop in _loops)
        draft, target = runner(llm).drafter.draft, runner(llm).model.get_language_model().lm_head
        assert hasattr(draft.model.fc, "cpu_linear") and hasattr(draft.model.head.down_proj, "cpu_linear")
        if draft.config.draft_vocab_size is None:
            # The target's table, by its kernel.
            assert not hasattr(draft.lm_head, "cpu_linear")
            assert draft.lm_head.weight.data_ptr() == target.weight.data_ptr()
        else:
            assert hasattr(draft.lm_head, "cpu_linear")
        answers(llm, mixed_prompts()[:2], greedy(12))
        stats = draft_stats(llm)
        assert stats["errors"] == 0 and stats["proposed_tokens"] > 0 and stats["latents"] > 0
    assert measured == [(1, 1)]
