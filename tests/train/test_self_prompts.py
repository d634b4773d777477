"""`specflash data --self-prompts`: the target writes the prompts, and only usable ones are asked."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from typer.testing import CliRunner

from vllm_specflash.cli import app
from vllm_specflash.config import SpecFlashError
from vllm_specflash.lab.bench.prompts import load_task
from vllm_specflash.lab.demo.chat_prompts import held_out_prompts, training_prompts
from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.prompts import Prompt
from vllm_specflash.train.self_prompts import FRUITLESS, SelfPromptOptions, SelfPrompts, beginning, cut_template, flaw


class ScriptedEngine:
    """Stands for vLLM's LLM: says its lines in order, whatever it is asked; "..." at the end means cut off."""

    def __init__(self, *lines: str):
        self.lines, self.asked = list(lines), []

    def generate(self, prompts, parameters, use_tqdm):
        self.asked += prompts
        said = [self.lines.pop(0) for _ in prompts]
        return [
            SimpleNamespace(outputs=[SimpleNamespace(text=s, finish_reason="length" if s.endswith("...") else "stop")])
            for s in said
        ]


def _own(family, count: int, answered: list[Prompt] = [], images: list[Path] = []) -> SelfPrompts:
    return SelfPrompts(SelfPromptOptions(self_prompts=count), family, answered, images)


@pytest.mark.parametrize(
    ("turn", "finished", "reason"),
    [
        ("What is the capital of Peru?", True, None),
        ("What is the capital of Peru", False, "has no end"),
        ("Hello", True, "fewer than two words"),
        ("Thanks. <s>assistant: You are welcome.", True, "control tokens"),
        ("Please tell me more. " * 12, True, "repeats itself"),
    ],
)
def test_turns_that_are_no_prompts_are_named(turn, finished, reason):
    found = flaw(turn, finished, ["<s>"])
    assert found is None if reason is None else reason in found


def test_the_template_is_cut_open_around_the_turn(llama, llava):
    assert cut_template(llama.family.render) == ("user: ", "\n")
    assert cut_template(llava.family.render, images=1) == ("user: <image>", "\n")
    with pytest.raises(SpecFlashError, match="--prompts"):
        cut_template(lambda messages: "no turn to be seen")


def test_turns_are_numbered_on_and_none_begins_like_another(llama):
    long = "Tell me about the many rivers of Northern Europe and about their fish, their boats and "
    engine = ScriptedEngine("Who is she?", "who is  she", "An endless ...", "Who are you?", f"{long} ports.", f"{long} locks.")
    skipped: Counter = Counter()
    earlier = [Prompt("self-000006", "self", [{"role": "user", "content": "Who are you?"}]), Prompt("chat-1", "chat", [])]
    own = _own(llama.family, 3, earlier)
    assert own.remaining == 2
    prompts = [prompt for batch in own.batches(engine, 3, skipped) for prompt in batch]
    assert [(p.id, p.text) for p in prompts] == [("self-000007", "Who is she?"), ("self-000008", f"{long} ports.")]
    assert skipped["a turn of the target's own begins like another"] == 3
    assert skipped["a turn of the target's own has no end"] == 1
    assert engine.asked[0] == {"prompt_token_ids": llama.family.tokenizer("user: ")["input_ids"]}
    assert beginning("It's 5_0%!") == "its50"


def test_a_target_that_writes_nothing_usable_is_told(llama):
    engine = ScriptedEngine(*["No"] * 2 * FRUITLESS)
    with pytest.raises(SpecFlashError, match="writes no usable prompts"):
        list(_own(llama.family, 4).batches(engine, 2, Counter()))
    assert not engine.lines


def test_every_picture_is_asked_about_in_turn(llava, tmp_path):
    paths = []
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
        paths.append(tmp_path / f"{name}.png")
    engine = ScriptedEngine("What is this?", "What is this?", "And this one?")
    own = _own(llava.family, 3, images=paths)
    prompts = [prompt for batch in own.batches(engine, 3, Counter()) for prompt in batch]
    assert [p.image_paths for p in prompts] == [[paths[0]], [paths[1]], [paths[0]]]
    assert [p.text for p in prompts] == ["What is this?", "What is this?", "And this one?"]
    assert [asked["multi_modal_data"]["image"].size for asked in engine.asked] == [(8, 8)] * 3


def test_a_second_run_goes_on_where_the_first_ended(llama, tmp_path):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"id": f"p{i}", "prompt": "abc" * (i + 1)}) + "\n" for i in range(2)))
    for count in ("3", "5"):
        command = [
            "data", "--prompts", tmp_path / "p.jsonl", "--target", llama.path,
            "--out", tmp_path / "answers", "--self-prompts", count, "--self-temperature", "2.0", "--self-max-tokens", "120",
            "--max-tokens", "4", "--max-model-len", "256", "--batch", "2",
        ]  # fmt: skip
        run = CliRunner().invoke(app, list(map(str, command)))
        assert run.exit_code == 0, run.output[-2000:]
    answers = list(AnswerFolder(tmp_path / "answers"))
    assert sorted(a.prompt.id for a in answers) == ["p0", "p1", *(f"self-{i:06d}" for i in range(5))]
    # Written by turns: an interruption leaves some of both.
    assert answers[0].prompt.id == "self-000000" and {answers[1].prompt.id, answers[2].prompt.id} & {"p0", "self-000001"}
    assert len({beginning(a.prompt.text) for a in answers}) == 7


def test_everyday_prompts_are_of_eight_kinds_and_none_is_trained_on():
    prompts = load_task("everyday")
    kinds = Counter(prompt.id.split("-")[1] for prompt in prompts)
    assert len(kinds) == 8 and min(kinds.values()) >= 10
    assert len({beginning(prompt.text) for prompt in prompts}) == len(prompts)
    made = {beginning(r["messages"][-1]["content"]) for r in training_prompts(4000)}
    made |= {beginning(r["prompt"]) for r in held_out_prompts()}
    assert not made & {beginning(prompt.text) for prompt in prompts}
