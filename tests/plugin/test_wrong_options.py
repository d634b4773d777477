"""An option that cannot be is refused before anything is loaded, in one sentence that names it."""

import re

import pytest
from typer.testing import CliRunner

from vllm_specflash.cli import app
from vllm_specflash.lab.bench.held_out import mixed_prompts

TRAIN = ("train", "--target", "t", "--data", "d", "--out", "o")
DATA = ("data", "--target", "t", "--prompts", "p", "--out", "o")
EVAL = ("eval", "--target", "t", "--draft", "d", "--data", "a")
ABLATE = ("ablate", "--target", "t", "--data", "d", "--out", "o")
EAGLE3 = ("eagle3", "--target", "t", "--data", "d", "--features", "f", "--out", "o")

LEAST_1 = "Input should be greater than or equal to 1"
LEAST_0 = "Input should be greater than or equal to 0"
MOST_1 = "Input should be less than or equal to 1"


def _said(*words: str) -> tuple[int, str]:
    """Exit code, and what was printed without the box around it."""
    run = CliRunner().invoke(app, list(map(str, words)))
    # A traceback of what a command raised.
    assert run.exception is None or isinstance(run.exception, SystemExit), run.exception
    return run.exit_code, " ".join(re.sub(r"[│╭╮╰╯─]", " ", run.output).split())


@pytest.mark.parametrize(
    "words, why",
    [
        (("bench", "--batch-size", "0"), LEAST_1),
        (("bench", "--repeats", "0"), LEAST_1),
        (("bench", "--max-tokens", "0"), LEAST_1),
        (("bench", "--max-minutes", "-1"), LEAST_0),
        (("bench", "--dtype", "int8"), "'int8' is not one of 'bfloat16', 'float16', 'float32'"),
        (("demo", "--prompts", "0"), LEAST_1),
        (("identity", "--max-num-seqs", "0"), LEAST_1),
        (("predict", "t", "--batch-size", "-8"), LEAST_1),
        (("served", "f", "--clients", "0"), LEAST_1),
        (("soak", "--hostile", "-3"), LEAST_0),
        (("soak", "--abort-share", "1.5"), MOST_1),
        (("soak", "--sizing", "short"), "'short' is not one of 'auto', 'longest'"),
        ((*TRAIN, "--visual-features", "pixels"), "'pixels' is not one of 'auto', 'states', 'embeddings', 'both'"),
        ((*TRAIN, "--schedule", "steep"), "'steep' is not one of"),
        ((*TRAIN, "--seed", "-1"), LEAST_0),
        ((*TRAIN, "--held-out-share", "2"), MOST_1),
        ((*TRAIN, "--semi-ar-width", "0"), LEAST_1),
        ((*TRAIN, "--target-temperature", "0"), "Input should be greater than or equal to 0.01"),
        ((*DATA, "--batch", "0"), LEAST_1),
        ((*DATA, "--self-prompts", "-1"), LEAST_0),
        ((*EVAL, "--rounds", "0"), LEAST_1),
        ((*EVAL, "--tree-nodes", "64"), "Input should be less than or equal to 63"),
        ((*EVAL, "--limit", "-1"), LEAST_1),
        ((*ABLATE, "--judged-answers", "0"), LEAST_1),
        ((*EAGLE3, "--max-steps", "0"), LEAST_1),
    ],
    ids=lambda part: " ".join((part[0], *part[-2:])) if isinstance(part, tuple) else "",
)
def test_a_number_or_word_out_of_range(words, why):
    code, said = _said(*words)
    assert code == 2
    assert f"Invalid value for '{words[-2]}': " in said and why in said


def test_bounds_are_part_of_the_help():
    code, said = _said("soak", "--help")
    assert code == 0 and "[x>=0]" in said and "[0<=x<=1]" in said


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "chat.jsonl").write_text('{"id": "q", "task": "chat", "prompt": "what?"}\n')
    return tmp_path / "data"


@pytest.mark.parametrize("command", ["identity", "soak"])
def test_a_task_that_the_prompts_have_not(command, prompts):
    code, said = _said(command, "--target", prompts, "--task", "chats", "--data", prompts)
    assert code == 1 and "has no prompts for chats: its tasks are chat." in said
    assert len(mixed_prompts(3, ("chat", "chats"), prompts)) == 1


def test_a_benchmark_of_such_a_task_starts_no_engine(prompts, tmp_path):
    code, said = _said("bench", "--target", prompts, "--task", "chats", "--data", prompts, "--out", tmp_path / "b.json")
    assert code == 1 and "has no prompts for task 'chats': its tasks are chat." in said
    assert "starting" not in said


@pytest.mark.parametrize("text", ["[1]", "max_num_seqs", ""])
def test_engine_arguments_that_are_no_object(text, prompts, tmp_path):
    code, said = _said("bench", "--target", prompts, "--data", prompts, "--engine-args", text, "--out", tmp_path / "b.json")
    assert code == 1 and f"--engine-args is {text!r}: give a JSON object" in said


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"settings": {}}'])
def test_a_file_that_is_no_benchmarks_is_neither_read_nor_overwritten(content, prompts):
    other = prompts / "other.json"
    other.write_text(content)
    for words in (("bench", "--out", other), ("served", other)):
        code, said = _said(*words, "--target", prompts, "--data", prompts)
        assert code == 1 and "is no file of specflash bench: name one that it wrote" in said
    assert other.read_text() == content


def test_two_methods_of_one_name(prompts, tmp_path):
    methods = ("--method", 'specflash={"method": "specflash", "tree": false}', "--method", "specflash")
    code, said = _said("bench", "--target", prompts, "--data", prompts, *methods, "--out", tmp_path / "b.json")
    assert code == 1 and "Two methods are called 'specflash'" in said


def test_a_folder_of_drafts_for_other_targets_is_said(prompts, tmp_path):
    (tmp_path / "peers" / "other").mkdir(parents=True)
    (tmp_path / "peers" / "other" / "config.json").write_text("{}")
    code, said = _said("bench", "--target", prompts, "--data", prompts, "--method", f"eagle3={tmp_path / 'peers'}", "--out", tmp_path / "b.json")
    assert code == 1 and f"has no draft for {prompts.name}: name a draft's folder" in said


def test_plots_without_matplotlib_are_refused_before_hours_of_measuring(prompts, tmp_path, monkeypatch):
    monkeypatch.setattr("vllm_specflash.commands.bench.find_spec", lambda name: None)
    code, said = _said("bench", "--target", prompts, "--data", prompts, "--plots", tmp_path, "--out", tmp_path / "b.json")
    assert code == 1 and "--plots draws with matplotlib: pip install matplotlib, or leave it out." in said


def test_a_place_that_cannot_be_written(text_target, prompts, tmp_path):
    (tmp_path / "file").write_text("")
    code, said = _said("data", "--target", text_target, "--prompts", prompts / "chat.jsonl", "--out", tmp_path / "file")
    assert code == 1 and "/vllm.log cannot be used (Not a directory): name another place." in said


@pytest.fixture
def train(text_target, tmp_path):
    """Words of a `specflash train` that has what it needs."""
    from vllm_specflash.train.answers import Answer, AnswerFolder
    from vllm_specflash.train.prompts import Prompt

    asked = [Prompt(f"q{i}", "chat", [{"role": "user", "content": "?"}]) for i in range(16)]
    AnswerFolder(tmp_path / "answers").append([Answer(prompt, [20, 21, 22], "", 0.0) for prompt in asked])
    given = ("--target", text_target, "--data", tmp_path / "answers", "--out", tmp_path / "draft", "--held-out-share", 0.5)
    return ("train", *given, "--epochs", 1, "--warmup-steps", 1)


@pytest.mark.parametrize(
    "more, why",
    [
        (("--pool-length", 8, "--compressor", "none"), "--pool-length cuts what is pooled, and --compressor none pools nothing"),
        (("--visual-features", "both", "--compressor", "paper"), "--visual-features says what --compressor placed pools: give both, or leave it out."),
        (("--selector-width", 8, "--transition-rank", 0), "selector_width must not be negative, and needs a transition_rank"),
        (("--start-from", "DRAFT", "--start-selector-width", 8), "--start-selector-width needs a draft with a transition"),
        (("--start-feed-forward", 8), "--start-feed-forward goes with --start-from: a new draft's is --feed-forward."),
        (("--target-layers", "2"), "--target-layers takes numbers from 0 to 1, by commas, not '2'."),
    ],
    ids=lambda part: part[0] if isinstance(part, tuple) else "",
)
def test_options_of_training_that_contradict_each_other(more, why, train, text_target):
    code, said = _said(*train, *(text_target / "specflash" if word == "DRAFT" else word for word in more))
    assert code == 1 and why in said


@pytest.mark.parametrize("more", [("--top", 500), ("--draft-vocab-size", 3), ("--compressor", "placed", "--num-latents", 0)])
def test_options_of_training_at_their_ends(more, train, tmp_path):
    code, said = _said(*train, *more)
    assert code == 0, said
    assert (tmp_path / "draft" / "model.safetensors").is_file()


def test_figures_go_into_a_folder_that_is_not_there_yet(train, text_target, tmp_path):
    evaluated = ("eval", "--target", text_target, "--draft", text_target / "specflash", "--data", tmp_path / "answers")
    code, said = _said(*evaluated, "--held-out-share", 1, "--limit", 2, "--out", tmp_path / "figures" / "eval.json")
    assert code == 0, said
    assert (tmp_path / "figures" / "eval.json").is_file()


@pytest.mark.parametrize(
    "more, why",
    [
        (("--max-steps", 10), "--warmup-steps 50 are more than --max-steps 10: lower the former."),
        (("--layers", "7"), "--layers takes numbers from 0 to 1, by commas, not '7'."),
    ],
    ids=["warm-up", "layers"],
)
def test_an_eagle3_peer_of_such_options(more, why, text_target, tmp_path):
    places = ("--data", tmp_path / "answers", "--features", tmp_path / "features", "--out", tmp_path / "draft")
    code, said = _said("eagle3", "--target", text_target, *places, *more)
    assert code == 1 and why in said
