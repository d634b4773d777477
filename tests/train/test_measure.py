"""Acceptance measured by serving is the simulated one."""

import json
from collections import Counter
from pathlib import Path

import pytest
from drafts import draft_for
from typer.testing import CliRunner

from vllm_specflash.cli import app
from vllm_specflash.commands.predict import _of_draft
from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.dataset import AnswerSet
from vllm_specflash.train.evaluate import evaluate_draft
from vllm_specflash.train.prompts import Prompt
from vllm_specflash.train.shape import read_draft
from vllm_specflash.train.target import Target


@pytest.fixture(scope="module")
def answers(llama, greedy_answer, tmp_path_factory) -> Path:
    """Greedy answers of one length to two tasks."""
    folder = AnswerFolder(tmp_path_factory.mktemp("answers"))
    prompts = [Prompt(f"p{i}", ("chat", "tales")[i % 2], [{"role": "user", "content": "tell " + "abcdefgh"[i]}]) for i in range(8)]
    folder.append([greedy_answer(llama, prompt, 40) for prompt in prompts])
    return folder.folder


def test_simulated_and_measured_acceptance_agree(llama, answers, tmp_path):
    """With a draft that is right about two times in three; chains of 4 are cut from two rounds of 3."""
    draft = draft_for(Path(llama.path), tmp_path / "draft", knowing=True, semi_ar_width=3)
    command = ["eval", "--target", llama.path, "--draft", str(draft), "--data", str(answers), "--out", str(tmp_path / "e.json")]
    command += ["--chain-length", "4", "--held-out-share", "1", "--max-length", "256", "--measured", "--dtype", "float32"]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output + str(run.exception)
    found = json.loads((tmp_path / "e.json").read_text())
    assert (found["served"], found["identical"]) == (8, 8)
    assert (found["rounds"], found["chain_length"]) == (2, 4)
    for task in ("chat", "tales"):
        simulated, measured = found["simulated"][task], found["measured"][task]
        assert simulated["tau"] > 1.3
        # The target is float32 here and bfloat16 in the simulation, as it is where drafts are trained.
        assert measured["tau"] == pytest.approx(simulated["tau"], rel=0.05)
        assert len(measured["accepted_at"]) == 4
        assert measured["accepted_at"] == pytest.approx(simulated["accepted_at"], abs=0.06)


def test_a_prediction_is_of_what_the_draft_sees(llama, answers, tmp_path):
    """States of two layers beside the last: without them the draft would be simulated blind."""
    draft = str(draft_for(Path(llama.path), tmp_path / "draft", noticing=True, target_layers=[1, 0]))
    command = ["eval", "--target", llama.path, "--draft", draft, "--data", str(answers), "--out", str(tmp_path / "e.json")]
    run = CliRunner().invoke(app, command + ["--held-out-share", "1"])
    assert run.exit_code == 0, run.output + str(run.exception)
    simulated = json.loads((tmp_path / "e.json").read_text())["simulated"]
    depth, found = _of_draft(llama.path, draft, [answers], 1.0)
    forwards = [task["forwards"] for task in simulated.values()]
    wanted = [sum(n * share for n, share in zip(forwards, shares)) / sum(forwards) for shares in zip(*(t["accepted_at"] for t in simulated.values()))]
    assert depth == len(found) and found == pytest.approx(wanted)

    def told(layers: list[int]) -> dict[str, int]:
        target = Target(llama.path, layers=layers)
        judged = AnswerSet(list(AnswerFolder(answers)), target, 4096, Counter(), None)
        network = read_draft(draft, target)
        results = evaluate_draft(network, target, judged, network.config.num_rounds, depth, lookup=True)
        return {task: result.steps for task, result in results.items()}

    assert {task: result["forwards"] for task, result in simulated.items()} == told([1, 0]) != told([])


def test_only_held_out_answers_are_evaluated(llama, answers, tmp_path):
    draft = draft_for(Path(llama.path), tmp_path / "draft")
    command = ["eval", "--target", llama.path, "--draft", str(draft), "--data", str(answers), "--held-out-share", "0"]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 1
    assert "None of the 8 answers is greedy and held out: raise --held-out-share" in run.output
