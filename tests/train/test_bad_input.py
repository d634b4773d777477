"""Bad input is left out with a counted reason, and what was done is kept."""

import copy
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoConfig

from vllm_specflash.train.answers import Answer, AnswerFolder
from vllm_specflash.train.dataset import AnswerSet, load_answers
from vllm_specflash.train.features import FeatureCache
from vllm_specflash.train.generate import _unanswered
from vllm_specflash.train.loss import LossOptions
from vllm_specflash.train.prompts import Prompt, prompts_of_images, read_prompts
from vllm_specflash.train.recipe import RecipeOptions, train_draft
from vllm_specflash.train.shape import DraftOptions


def _picture(path: Path, color: str = "red") -> Path:
    Image.new("RGB", (32, 32), color).save(path)
    return path


def _corrupt(path: Path) -> Path:
    path.write_bytes(_picture(path).read_bytes()[:60])
    return path


def _asking(name: str, *images: Path) -> Prompt:
    parts = [{"type": "image", "path": str(path)} for path in images]
    return Prompt(name, "scenes", [{"role": "user", "content": [*parts, {"type": "text", "text": "what is it"}]}])


def _data(folder: Path, target: str, *more: str) -> subprocess.CompletedProcess:
    command = [
        Path(sys.executable).with_name("specflash"), "data", "--prompts", folder / "p.jsonl", "--target", target,
        "--out", folder / "answers", "--max-tokens", "8", "--max-model-len", "128", "--batch", "8", "--max-images", "2", *more,
    ]  # fmt: skip
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


def test_data_answers_every_good_prompt_and_counts_the_others(llava, tmp_path):
    _picture(tmp_path / "a.png")
    _corrupt(tmp_path / "torn.png")
    (tmp_path / "text.png").write_text("no picture")
    records = [
        {"id": "good", "prompt": "what is it", "images": ["a.png"]},
        {"id": "torn", "prompt": "what is it", "images": ["torn.png"]},
        {"id": "text", "prompt": "what is it", "images": ["text.png"]},
        {"id": "missing", "prompt": "what is it", "images": ["b.png"]},
        {"id": "long", "prompt": "so long " * 40},
        {"id": "many", "prompt": "what are they", "images": ["a.png", "a.png", "a.png"]},
        {"id": "unnamed", "prompt": "look at <image> and say"},
        {"id": "good", "prompt": "again"},
        {"id": "chat", "prompt": "hello"},
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "p.jsonl").write_bytes(lines.encode() + b'{"id": "cut", "pro\n' + b'{"prompt": "\xff\xfe"}\n[1]\n')
    run = _data(tmp_path, llava.path)
    assert run.returncode == 0, run.stderr[-2000:]
    assert AnswerFolder(tmp_path / "answers").ids() == {"good", "chat"}
    facts = json.loads((tmp_path / "answers" / "provenance.json").read_text())
    assert facts["skipped"] == {
        "an image could not be read": 2,
        "an image that the prompt names is missing": 1,
        "the prompt is longer than --max-model-len": 1,
        "vLLM refuses the prompt": 1,
        "the text names an image and the prompt has none": 1,
        "another prompt has the same id": 1,
        "the line is not JSON": 2,
        "the line is not a JSON object": 1,
    }
    assert "skipped torn: an image could not be read" in run.stderr and str(tmp_path / "torn.png") in run.stderr


def test_prompts_that_name_no_image_at_all_are_told_apart(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "?", "images": ["b.png"]}\n{"messages": 3}\n{"messages": [{"role": "user"}]}\n')
    skipped: Counter = Counter()
    assert list(read_prompts(tmp_path / "p.jsonl", skipped)) == []
    assert skipped == {
        "an image that the prompt names is missing": 1, "a field has the wrong type": 1, "no field 'content'": 1
    }  # fmt: skip


def test_a_text_target_is_not_asked_about_images(llama, tmp_path):
    prompts = [_asking("picture", _picture(tmp_path / "a.png")), Prompt("text", "chat", [{"role": "user", "content": "?"}])]
    skipped: Counter = Counter()
    todo = _unanswered(prompts, set(), AutoConfig.from_pretrained(llama.path), skipped)
    assert [prompt.id for prompt in todo] == ["text"]
    assert skipped == {"the prompt has an image and the target is text-only": 1}


def test_a_folder_of_images_is_asked_by_template(tmp_path):
    (tmp_path / "cats").mkdir()
    for name in ("b.png", "a.JPG", "cats/tom.webp"):
        _picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    prompts = list(prompts_of_images(tmp_path, ["What is {name}?", "Describe it."]))
    assert [prompt.id for prompt in prompts] == [
        "a.JPG#0", "a.JPG#1", "b.png#0", "b.png#1", "cats/tom.webp#0", "cats/tom.webp#1"
    ]  # fmt: skip
    assert [prompt.task for prompt in prompts[::2]] == ["images", "images", "cats"]
    assert prompts[4].text == "What is tom?" and prompts[4].image_paths == [tmp_path / "cats" / "tom.webp"]


def test_training_leaves_out_what_it_cannot_read_and_goes_on(llava, tmp_path):
    good, torn = _picture(tmp_path / "a.png"), _corrupt(tmp_path / "torn.png")
    answers = [Answer(_asking(f"good-{i}", good), [20, 21, 22, 23 + i], "", 0.0) for i in range(6)]
    answers += [Answer(_asking(f"torn-{i}", torn), [20, 21, 22], "", 0.0) for i in range(3)]
    answers += [Answer(_asking("gone", tmp_path / "gone.png"), [20, 21, 22], "", 0.0)]
    AnswerFolder(tmp_path / "answers").append(answers)
    shape = DraftOptions(semi_ar_width=2, num_latents=4, head_expansion=1, draft_vocab_size=0, transition_rank=0)
    # Batches of one: some of them have nothing that can be read. Two epochs: each answer counts once.
    recipe = RecipeOptions(epochs=2, batch_size=1, warmup_steps=1, evaluate_every=50, held_out_share=0.25, bf16=False)
    _, skipped = train_draft(llava.path, [tmp_path / "answers"], tmp_path / "draft", shape, LossOptions(), recipe)
    assert skipped == {"an image could not be read": 4}
    assert json.loads((tmp_path / "draft" / "provenance.json").read_text())["skipped"] == dict(skipped)


def test_a_target_that_names_no_visual_token(llava, tmp_path, monkeypatch):
    bare = copy.deepcopy(llava.config)
    bare.image_token_id = None
    monkeypatch.setattr(llava.family, "config", bare)
    skipped: Counter = Counter()
    text = Answer(Prompt("text", "chat", [{"role": "user", "content": "hello"}]), [20, 21], "", 0.0)
    picture = Answer(_asking("picture", _picture(tmp_path / "a.png")), [20, 21], "", 0.0)
    answers = AnswerSet([text, picture], llava, 512, skipped, None)
    assert answers[0] is not None and answers[1] is None
    assert skipped == {"the target's config names no visual token": 1}


def test_two_answers_of_one_id_and_unknown_tokens_are_left_out(llama, llama_answers, tmp_path):
    folder = AnswerFolder(tmp_path)
    strange = replace(llama_answers[1], token_ids=[5, 10**6])
    folder.append([llama_answers[0], llama_answers[0], strange, replace(llama_answers[2], token_ids=[5])])
    skipped: Counter = Counter()
    assert [a.prompt.id for a in load_answers([folder], llama, 512, skipped)] == ["p0"]
    assert skipped == {
        "another answer has the same id": 1, "the answer has tokens that the target does not know": 1,
        "the answer has fewer than two tokens": 1,
    }  # fmt: skip


def test_features_survive_a_kill_in_the_middle_of_the_index(tmp_path, llama, llama_answers):
    samples = [llama.sample(answer, 512) for answer in llama_answers[:2]]
    hidden = llama.hidden_states(samples)
    FeatureCache(tmp_path, 128, "llama").append(samples[:1], hidden[:1])
    with open(tmp_path / "index.jsonl", "a") as index:
        index.write('{"id": "p1", "task": "ch')
    cache = FeatureCache(tmp_path, 128, "llama")
    assert cache.holds(llama_answers[0]) and not cache.holds(llama_answers[1])
    cache.append(samples[1:], hidden[1:])
    again = FeatureCache(tmp_path, 128, "llama")
    for sample, states in zip(samples, hidden, strict=True):
        assert torch.equal(again.hidden(sample.id), states[: len(sample)].to(torch.bfloat16))


def test_features_of_another_answer_of_the_same_name_are_not_trained_on(tmp_path, llama, llama_answers):
    first, other = llama_answers[0], replace(llama_answers[1], prompt=replace(llama_answers[1].prompt, id="p0"))
    for answer in (first, other):
        cache = FeatureCache(tmp_path, 128, "llama")
        usable = AnswerSet([answer], llama, 512, Counter(), cache)
        sample, wanted = usable[0], llama.sample(answer, 512)
        assert torch.equal(sample.input_ids, wanted.input_ids)
        states = llama.hidden_states([wanted])[0][: len(wanted)]
        for _ in range(2):
            found = usable.features([usable[0]], None, 2).hidden[0]
            torch.testing.assert_close(found.float(), states.float(), rtol=0.02, atol=0.02)
            usable.fill_cache(4)
            assert cache.holds(answer)


def test_answers_survive_a_kill_between_two_shards(tmp_path, llama_answers):
    folder = AnswerFolder(tmp_path)
    folder.append(llama_answers[:2])
    (tmp_path / "answers-00001.part").write_text('{"prompt": {"id": "p')
    assert folder.ids() == {"p0", "p1"}
    folder.append([])
    folder.append(llama_answers[2:3])
    assert [path.name for path in folder.shards] == ["answers-00000.jsonl", "answers-00001.jsonl"]
    assert folder.ids() == {"p0", "p1", "p2"}


@pytest.mark.parametrize("family, layers", [("llava", [1, 0]), ("llava", []), ("llama", [0])])
def test_data_keeps_no_features_where_there_are_others(request, tmp_path, family, layers):
    """An engine tells the last states, of targets that see with what the first layer read: rows of that width and no other."""
    from typer.testing import CliRunner

    from vllm_specflash.cli import app

    target = request.getfixturevalue(family)
    (tmp_path / "p.jsonl").write_text('{"id": "a", "prompt": "abc"}\n')
    FeatureCache(tmp_path / "features", 128, target.name, layers)
    places = ["--prompts", tmp_path / "p.jsonl", "--out", tmp_path / "a", "--features", tmp_path / "features"]
    run = CliRunner().invoke(app, ["data", "--target", target.path, *map(str, places)])
    assert run.exit_code == 1 and "holds features of" in run.output and "name another folder." in run.output.replace("\n", " ")
    assert not (tmp_path / "a" / "vllm.log").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--prompts", "nowhere.jsonl"], "There are no prompts at nowhere.jsonl"),
        (["--prompts", "."], "say with --template what each of them is asked"),
        (["--prompts", "setup.py", "--template", "?"], "--template goes with a folder of images"),
        (["--prompts", "setup.py"], "has no usable prompt"),
    ],
)
def test_data_says_in_one_sentence_what_is_wrong(tmp_path, more, sentence):
    from typer.testing import CliRunner

    from vllm_specflash.cli import app

    run = CliRunner().invoke(app, ["data", "--target", "t", "--out", str(tmp_path / "a"), *more])
    assert run.exit_code == 1
    assert sentence in run.output and "Traceback" not in run.output
