"""Every family trains: one step on a tiny random target of it, from answers to a draft that loads."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny_models import tiny_llama, tiny_llava, tiny_qwen2_5_vl, tiny_qwen3

from vllm_specflash.config import SpecFlashError
from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.train.answers import Answer, AnswerFolder
from vllm_specflash.train.families import FAMILIES, family_of
from vllm_specflash.train.loss import LossOptions
from vllm_specflash.train.prompts import Prompt
from vllm_specflash.train.recipe import RecipeOptions, train_draft
from vllm_specflash.train.shape import DraftOptions
from vllm_specflash.train.target import Target, target_config

SHAPE = DraftOptions(semi_ar_width=3, num_latents=4, head_expansion=2, draft_vocab_size=40, transition_rank=4)
RECIPE = RecipeOptions(max_steps=1, batch_size=4, warmup_steps=0, learning_rate=1e-2, held_out_share=0.3, bf16=False)
# builder, whether it sees, and the placeholders of the two pictures below.
TARGETS = {
    "llama": (tiny_llama, None),
    "qwen3": (tiny_qwen3, None),
    "llava": (tiny_llava, [16, 16]),
    "qwen2_5_vl": (tiny_qwen2_5_vl, [4, 12]),
}


def _prompt(name: str, folder, sees: bool) -> Prompt:
    parts = [{"type": "text", "text": f"question {name}"}]
    if sees:
        for i, size in enumerate(((32, 32), (96, 32))):
            path = folder / f"{name}-{i}.png"
            Image.effect_noise(size, 40 + 10 * i).convert("RGB").save(path)
            parts.insert(0 if i else len(parts), {"type": "image", "path": str(path)})
        parts[0], parts[-1] = parts[-1], parts[0]
    return Prompt(name, "scenes" if sees else "chat", [{"role": "user", "content": parts if sees else parts[0]["text"]}])


@pytest.mark.parametrize("kind", TARGETS)
def test_a_family_trains_for_a_step(kind, tmp_path):
    build, spans = TARGETS[kind]
    target = str(build(tmp_path / "target"))
    assert target_config(target).model_type in FAMILIES
    answers = [
        Answer(_prompt(f"p{i}", tmp_path, spans is not None), list(range(20 + i, 34 + i)), "", 0.0) for i in range(8)
    ]
    # A conversation without a picture in the same batch.
    answers[0] = replace(answers[0], prompt=_prompt("p0", tmp_path, False))
    AnswerFolder(tmp_path / "answers").append(answers)
    if spans is not None:
        sample = Target(target, torch.float32).sample(answers[1], 512)
        assert [length for _, length in sample.spans] == spans
    _, skipped = train_draft(target, [tmp_path / "answers"], tmp_path / "draft", SHAPE, LossOptions(), RECIPE)
    assert not skipped
    facts = json.loads((tmp_path / "draft" / "provenance.json").read_text())
    assert facts["steps"] == 1 and facts["held_out"]
    (log, *_) = json.loads((tmp_path / "draft" / "checkpoints" / "trainer_state.json").read_text())["log_history"]
    assert 0 < log["loss"] < 20 and log["grad_norm"] > 0
    draft = SpecFlashDraft.from_pretrained(tmp_path / "draft")
    assert draft.config.target_name == "target" and draft.config.num_key_value_heads == 2


def test_a_kind_of_target_that_is_not_known_is_refused_in_one_sentence(llama):
    config = target_config(llama.path)
    config.model_type = "mamba"
    with pytest.raises(SpecFlashError, match="type 'mamba' cannot be trained for yet .*llava.*add a module"):
        family_of(config, llama.path)


def test_a_target_that_is_not_there_is_refused_in_one_sentence():
    with pytest.raises(SpecFlashError, match="There is no target at 'nowhere/at-all'"):
        Target("nowhere/at-all")
