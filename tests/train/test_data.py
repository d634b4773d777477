"""Prompts in, answers kept, vocabularies chosen."""

import json
from collections import Counter

import pytest
import torch
from PIL import Image

from vllm_specflash.lab.demo.chat_prompts import held_out_prompts, training_prompts
from vllm_specflash.train.answers import Answer, AnswerFolder
from vllm_specflash.train.dataset import is_held_out
from vllm_specflash.train.families.family import find_spans
from vllm_specflash.train.generate import GenerationOptions
from vllm_specflash.train.prompts import Prompt, read_prompts
from vllm_specflash.train.vocabulary import choose_vocabulary, target_to_draft


def test_both_prompt_forms_are_read_and_bad_lines_counted(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    records = [
        {"id": "one", "task": "scenes", "prompt": "What is this?", "images": ["a.png"]},
        {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "And this?"}]}]},
        {"id": "no image", "prompt": "What?", "images": ["b.png"]},
        {"id": "no prompt"},
        {"id": "no turn", "messages": [{"role": "assistant", "content": "Hello."}]},
    ]  # fmt: skip
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records) + "not json\n")
    skipped: Counter = Counter()
    first, second = read_prompts(path, skipped)
    assert (first.id, first.task, first.image_paths) == ("one", "scenes", [tmp_path / "a.png"])
    assert second.id == "p-000001" and second.messages[0]["content"][1] == {"type": "text", "text": "And this?"}
    assert sum(skipped.values()) == 4
    assert skipped["an image that the prompt names is missing"] == 1 and skipped["no field 'prompt'"] == 1


def test_shards_come_back_and_number_on(tmp_path):
    folder = AnswerFolder(tmp_path)
    answers = [Answer(Prompt(str(i), "chat", [{"role": "user", "content": "?"}]), [i, 2], "x", 0.0) for i in range(4)]
    folder.append(answers[:3])
    before = folder.digest()
    folder.append(answers[3:])
    (tmp_path / "answers-00002.part").write_text("half a sh")
    assert list(folder) == answers and folder.ids() == {"0", "1", "2", "3"}
    assert [shard.name for shard in folder.shards] == ["answers-00000.jsonl", "answers-00001.jsonl"]
    assert folder.digest() != before


def test_held_out_answers_are_greedy_as_often_as_others():
    options = GenerationOptions(sampled_share=0.2)
    prompts = [Prompt(f"chat-train-{i:05d}", "chat", []) for i in range(4000)]
    held_out = [p for p in prompts if is_held_out(p.id, 0.05)]
    assert 150 < len(held_out) < 250
    assert 0.7 < sum(options.temperature_of(p) == 0 for p in held_out) / len(held_out) < 0.9


def test_training_prompts_are_varied_and_none_is_held_out():
    held_out = {record["prompt"] for record in held_out_prompts()}
    training = training_prompts(3000)
    turns = [record["messages"][-1]["content"] for record in training]
    assert len(held_out) == 124 and len(set(turns)) == 3000 and not held_out & set(turns)
    assert training[:100] == training_prompts(100)


def test_vocabulary_is_the_most_frequent_tokens_filled_up_with_low_ids():
    d2t, coverage = choose_vocabulary([[7, 7, 7, 9, 9, 4]], 2)
    assert d2t.tolist() == [7, 9] and coverage == pytest.approx(5 / 6)
    d2t, coverage = choose_vocabulary([[7, 7, 9]], 5)
    assert d2t.tolist() == [0, 1, 2, 7, 9] and coverage == 1.0
    t2d = target_to_draft(d2t, 12)
    assert t2d[d2t].tolist() == [0, 1, 2, 3, 4] and (t2d >= 0).sum() == 5


def test_touching_images_are_told_apart_by_their_lengths():
    ids = torch.tensor([1, 5, 5, 5, 5, 5, 2, 5, 5, 3])
    assert find_spans(ids, 5, [2, 3, 2]) == [(1, 2), (3, 3), (7, 2)]
    with pytest.raises(ValueError, match="do not match the placeholders"):
        find_spans(ids, 5, [4, 3, 2])
    with pytest.raises(ValueError, match="fewer placeholders"):
        find_spans(ids, 5, [2, 3, 2, 1])
