"""`specflash data --features`: the hidden states that vLLM computed while it answered are those of the target."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vllm_specflash.cli import app
from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.capture import HiddenStateCapture
from vllm_specflash.train.features import FeatureCache
from vllm_specflash.train.generate import _sample
from vllm_specflash.train.loss import LossOptions
from vllm_specflash.train.recipe import RecipeOptions, train_draft
from vllm_specflash.train.shape import DraftOptions
from vllm_specflash.train.skipped import Unusable


def _generate(target, folder: Path, records: list[dict], *more) -> None:
    """`specflash data` of the records, with features, all greedy: into folder/answers and folder/features."""
    (folder / "p.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    command = [
        "data", "--prompts", folder / "p.jsonl", "--target", target.path, "--out", folder / "answers",
        "--features", folder / "features", "--max-tokens", 12, "--sampled-share", 0, *more,
    ]  # fmt: skip
    run = CliRunner().invoke(app, list(map(str, command)))
    assert run.exit_code == 0, run.output[-2000:]


def test_an_answer_may_have_run_for_a_step_too_long(llama, llama_answers):
    """With asynchronous scheduling its last token is run, too."""
    answer = llama_answers[0]
    wanted = llama.sample(answer, 512)
    states, asked = torch.randn(len(wanted), 128), wanted.input_ids[: wanted.answer_start].tolist()
    for rows in (len(wanted) - 1, len(wanted)):
        sample, hidden = _sample(answer, asked, states[:rows], llama.family)
        assert torch.equal(sample.input_ids, wanted.input_ids) and torch.equal(hidden[:-1], states[:-1]) and not hidden[-1].any()
    with pytest.raises(ValueError, match="not complete"):
        _sample(answer, asked, states[:-2], llama.family)


@pytest.mark.parametrize("target", ["llava", "qwen2_5_vl"])
def test_captured_states_are_those_of_a_teacher_forced_pass(target, tmp_path, request):
    target = request.getfixturevalue(target)
    records = []
    for i, colours in enumerate((["red"], ["blue", "green"], [])):
        for j, colour in enumerate(colours):
            Image.new("RGB", (48, 32), colour).save(tmp_path / f"{i}{j}.png")
        images = [f"{i}{j}.png" for j in range(len(colours))]
        records.append({"id": f"p{i}", "task": "scenes", "prompt": "abc" * (i + 1), "images": images})
    _generate(target, tmp_path, records, "--max-model-len", 128, "--batch", 2)

    answers = list(AnswerFolder(tmp_path / "answers"))
    cache, wide = (FeatureCache(tmp_path / "features", target.text_config.hidden_size, target.name, layers) for layers in ([], [0]))
    size = target.text_config.hidden_size
    assert [answer.prompt.id for answer in answers] == ["p0", "p1", "p2"]
    for answer in answers:
        wanted, kept = target.sample(answer, 128), cache.samples[answer.prompt.id]
        assert torch.equal(kept.input_ids, wanted.input_ids)
        assert (kept.answer_start, [tuple(span) for span in kept.spans]) == (wanted.answer_start, wanted.spans)
        # vLLM never runs the last token. It computed in bfloat16, the reference in float32.
        states, target.layers = target.hidden_states([wanted])[0][: len(wanted)].float()[:-1], [0]
        inputs, target.layers = target.hidden_states([wanted])[0][: len(wanted), size:].float()[:-1], []
        told = wide.hidden(answer.prompt.id).float()[:-1]
        for kept, truth in ((told[:, :size], states), (told[:, size:], inputs)):
            assert ((kept - truth).norm(dim=-1) / truth.norm(dim=-1)).max() < 0.05
        assert torch.equal(cache.hidden(answer.prompt.id).float()[:-1], told[:, :size])


def test_states_of_more_layers_are_kept_in_the_order_asked_for_and_trained_on(llama, tmp_path):
    _generate(llama, tmp_path, [{"id": f"q{i}", "prompt": "ab" * (i + 1)} for i in range(6)], "--max-model-len", 128, "--target-layers", "1,0")
    size = llama.text_config.hidden_size
    cache = FeatureCache(tmp_path / "features", size, llama.name, [1, 0])
    for answer in AnswerFolder(tmp_path / "answers"):
        wanted = llama.sample(answer, 128)
        with torch.no_grad():
            states = llama.model(input_ids=wanted.input_ids[None], output_hidden_states=True).hidden_states
        truth = torch.cat((states[-1], states[1], states[0]), dim=-1)[0, :-1].float().unflatten(-1, (3, size))
        kept = cache.hidden(answer.prompt.id).float()[:-1].unflatten(-1, (3, size))
        assert ((kept - truth).norm(dim=-1) / truth.norm(dim=-1)).max() < 0.05
    recipe = RecipeOptions(max_steps=1, batch_size=4, held_out_share=0.3, bf16=False, features=tmp_path / "features")
    shape = DraftOptions(semi_ar_width=2, num_latents=2, head_expansion=1, draft_vocab_size=0, target_layers="1")
    _, unusable = train_draft(llama.path, [tmp_path / "answers"], tmp_path / "draft", shape, LossOptions(), recipe)
    assert not unusable


def test_a_model_that_hands_out_no_layers_is_told_before_anything_is_kept():
    worker = HiddenStateCapture()
    worker.model_runner = SimpleNamespace(model=torch.nn.Linear(2, 2), execute_model=None)
    assert not worker.start_capture([1])
    assert worker.model_runner.execute_model is None and not worker.model_runner.model._forward_hooks
    assert worker.start_capture()


def test_words_alone_where_no_pictures_are_allowed(llava, tmp_path):
    """Such an engine hands its model token ids."""
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    records = [{"id": "words", "prompt": "abc", "images": []}, {"id": "seen", "prompt": "abc", "images": ["red.png"]}]
    _generate(llava, tmp_path, records, "--max-model-len", 128, "--max-images", 0, "--target-layers", 0)
    (answer,) = AnswerFolder(tmp_path / "answers")
    cache = FeatureCache(tmp_path / "features", 128, llava.name, [0])
    assert cache.kept == [0], "what every target that sees gets is asked for once more"
    told = cache.hidden(answer.prompt.id)[:-1, 128:].float()
    wanted = llava.embedding[llava.sample(answer, 128).input_ids][:-1].float()
    assert answer.prompt.id == "words" and ((told - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max() < 0.05


def _clip(path: Path) -> None:
    """Eight frames of 32x32 pixels."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 4.0, (32, 32))
    for brightness in range(8):
        writer.write(np.full((32, 32, 3), 20 * brightness, dtype=np.uint8))
    writer.release()


def test_a_video_is_answered_and_trained_on_from_what_the_engine_kept(qwen2_5_vl, tmp_path):
    _clip(tmp_path / "clip.avi")
    (tmp_path / "torn.avi").write_bytes((tmp_path / "clip.avi").read_bytes()[:100])
    records = [
        {"id": f"v{i}", "messages": [{"role": "user", "content": [
            {"type": "video_url", "video_url": {"url": name}}, {"type": "text", "text": "abc" * (i + 1)}]}]}
        for i, name in enumerate(["clip.avi"] * 6 + ["torn.avi", "gone.avi"])
    ]  # fmt: skip
    _generate(qwen2_5_vl, tmp_path, records, "--max-model-len", 256, "--batch", 8)
    skipped = json.loads((tmp_path / "answers" / "provenance.json").read_text())["skipped"]
    assert skipped == {"a video that the prompt names is missing": 1, "vLLM refuses the prompt": 1}
    answers = list(AnswerFolder(tmp_path / "answers"))
    assert [answer.prompt.id for answer in answers] == [f"v{i}" for i in range(6)]
    cache = FeatureCache(tmp_path / "features", qwen2_5_vl.text_config.hidden_size, qwen2_5_vl.name)
    ((start, length),) = cache.samples["v0"].spans
    assert (cache.samples["v0"].input_ids[start : start + length] == qwen2_5_vl.config.video_token_id).all() and length >= 4
    recipe = RecipeOptions(max_steps=1, batch_size=4, held_out_share=0.3, bf16=False, features=tmp_path / "features")
    shape = DraftOptions(semi_ar_width=2, num_latents=2, head_expansion=1, draft_vocab_size=0)
    _, unusable = train_draft(qwen2_5_vl.path, [tmp_path / "answers"], tmp_path / "draft", shape, LossOptions(), recipe)
    assert not unusable
    # Without them there is nothing to say which frames the target saw.
    with pytest.raises(Unusable, match="specflash data --features"):
        qwen2_5_vl.sample(answers[0], 256)
