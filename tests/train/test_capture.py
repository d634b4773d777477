"""`specflash data --features`: the hidden states that vLLM computed while it answered are those of the target."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.features import FeatureCache


@pytest.mark.parametrize("target", ["llava", "qwen2_5_vl"])
def test_captured_states_are_those_of_a_teacher_forced_pass(target, tmp_path, request):
    target = request.getfixturevalue(target)
    records = []
    for i, colours in enumerate((["red"], ["blue", "green"], [])):
        for j, colour in enumerate(colours):
            Image.new("RGB", (48, 32), colour).save(tmp_path / f"{i}{j}.png")
        images = [f"{i}{j}.png" for j in range(len(colours))]
        records.append({"id": f"p{i}", "task": "scenes", "prompt": "abc" * (i + 1), "images": images})
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    command = [
        Path(sys.executable).with_name("specflash"), "data", "--prompts", tmp_path / "p.jsonl", "--target", target.path,
        "--out", tmp_path / "answers", "--features", tmp_path / "features",
        "--max-tokens", "12", "--max-model-len", "128", "--batch", "2", "--sampled-share", "0",
    ]  # fmt: skip
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]

    answers = list(AnswerFolder(tmp_path / "answers"))
    cache = FeatureCache(tmp_path / "features", target.text_config.hidden_size, target.name)
    assert [answer.prompt.id for answer in answers] == ["p0", "p1", "p2"]
    for answer in answers:
        wanted, kept = target.sample(answer, 128), cache.samples[answer.prompt.id]
        assert torch.equal(kept.input_ids, wanted.input_ids)
        assert (kept.answer_start, [tuple(span) for span in kept.spans]) == (wanted.answer_start, wanted.spans)
        # vLLM never runs the last token. It computed in bfloat16, the reference in float32.
        states = target.hidden_states([wanted])[0][: len(wanted)].float()[:-1]
        error = (cache.hidden(answer.prompt.id).float()[:-1] - states).norm(dim=-1) / states.norm(dim=-1)
        assert error.max() < 0.05
