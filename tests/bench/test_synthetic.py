"""specflash bench --synthetic-acceptance: trees and chains of a random draft, said loudly to mean nothing."""

import json

import pytest
from tiny_models import tiny_llama
from transformers import AutoConfig
from typer.testing import CliRunner

from vllm_specflash.cli import app
from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.lab.bench.method import chances, synthetic_methods
from vllm_specflash.lab.bench.random_draft import random_draft
from vllm_specflash.lab.bench.schedule import Benchmark


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("targets") / "tiny-llama")


def test_a_random_draft_fits_its_target(target, tmp_path):
    folder = random_draft(str(target), tmp_path / "draft")
    draft = SpecFlashDraft.from_pretrained(folder)
    text = AutoConfig.from_pretrained(target)
    assert (draft.config.hidden_size, draft.config.num_key_value_heads, draft.config.head_dim) == (128, 2, 32)
    assert draft.config.target_vocab_size == text.vocab_size and draft.config.semi_ar_width == 5
    assert draft.attention.qkv_proj.weight.std() > 0
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert random_draft(str(target), folder) == folder and (folder / "model.safetensors").stat().st_mtime_ns == before


def test_methods_are_trees_and_chains_of_those_chances():
    trees, chains = synthetic_methods((0.8, 0.4), "d")
    assert trees.speculative_config["tree"] is True and chains.speculative_config["tree"] is False
    assert chains.speculative_config["num_speculative_tokens"] == 2
    assert trees.speculative_config["synthetic_acceptance"] == chains.speculative_config["synthetic_acceptance"] == [0.8, 0.4]


@pytest.mark.parametrize(("text", "says"), [("0.5;0.4", "between commas"), ("0.4,0.5", "from 1 down to 0"), ("", "between commas")])
def test_what_is_no_chance_is_said(text, says):
    with pytest.raises(ValueError, match=says):
        synthetic_methods(chances(text), None)


def test_the_command_brings_its_draft_and_says_what_answers_mean(target, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(Benchmark, "run", lambda self, logs: ran.append(self))
    monkeypatch.setattr("vllm_specflash.commands.bench.report", lambda *_: [])
    out = tmp_path / "bench.json"
    result = CliRunner().invoke(
        app, ["bench", "--target", str(target), "--synthetic-acceptance", "0.8,0.5", "--method", "ngram", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert "answers mean nothing" in " ".join(result.output.split())
    (benchmark,) = ran
    assert benchmark.plan.ignore_eos
    assert [method.name for method in benchmark.methods] == ["plain", "ngram", "synthetic trees", "synthetic chains"]
    assert (tmp_path / "bench.drafts" / "tiny-llama" / "config.json").is_file()
    assert json.loads(out.read_text())["settings"]["plan"]["ignore_eos"] is True
