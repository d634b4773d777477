"""A training that is killed and started again gives the losses of one that never was."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from vllm_specflash.config import SpecFlashError
from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.loss import LossOptions
from vllm_specflash.train.recipe import RecipeOptions, train_draft
from vllm_specflash.train.shape import DraftOptions

SHAPE = DraftOptions(semi_ar_width=3, num_latents=4, head_expansion=2, draft_vocab_size=40, transition_rank=4)
# 3 steps an epoch: the kill comes epochs into the run, where the order of the batches is a new one.
RECIPE = RecipeOptions(
    max_steps=60, batch_size=2, learning_rate=3e-3, warmup_steps=2, evaluate_every=4, log_every=3, held_out_share=0.2
)
COMMAND = (
    "train --semi-ar-width 3 --num-latents 4 --head-expansion 2 --draft-vocab-size 40 --transition-rank 4 --max-steps 60 "
    "--batch-size 2 --learning-rate 3e-3 --warmup-steps 2 --evaluate-every 4 --log-every 3 --held-out-share 0.2"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory, llama_answers) -> Path:
    folder = AnswerFolder(tmp_path_factory.mktemp("data") / "answers")
    folder.append(llama_answers)
    return folder.folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, llama, data) -> Path:
    out = tmp_path_factory.mktemp("whole")
    train_draft(llama.path, [data], out, SHAPE, LossOptions(), RECIPE)
    return out


def _curve(out: Path) -> list[tuple[int, str, float]]:
    """(step, name, value) of every logged loss and held-out tau."""
    history = json.loads((out / "checkpoints" / "trainer_state.json").read_text())["log_history"]
    return [(e["step"], name, e[name]) for e in history for name in ("loss", "cross_entropy_2", "eval_tau") if name in e]


def _kill_after(command: list[str], sign: Path) -> None:
    """SIGKILL the command once a file appears."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not sign.exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"it ended before it could be killed: {errors[-2000:]}"


def test_killed_and_resumed_has_the_same_loss_curve(tmp_path, llama, data, whole):
    program = str(Path(sys.executable).with_name("specflash"))
    command = [program, *COMMAND, "--target", llama.path, "--data", str(data), "--out", str(tmp_path)]
    _kill_after(command, tmp_path / "checkpoints" / "checkpoint-8" / "provenance.json")
    done = [int(path.name.split("-")[1]) for path in (tmp_path / "checkpoints").glob("checkpoint-*")]
    assert 8 <= max(done) < 60 and not (tmp_path / "model.safetensors").exists()
    train_draft(llama.path, [data], tmp_path, SHAPE, LossOptions(), RECIPE)
    expected, resumed = _curve(whole), _curve(tmp_path)
    assert [entry[:2] for entry in resumed] == [entry[:2] for entry in expected]
    assert [value for *_, value in resumed] == pytest.approx([value for *_, value in expected], rel=2e-3, abs=2e-3)
    assert len({step for step, *_ in resumed}) > 20


def test_a_checkpoint_torn_by_the_kill_is_passed_over(tmp_path, llama, data, whole):
    shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints")
    torn = tmp_path / "checkpoints" / "checkpoint-999"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    train_draft(llama.path, [data], tmp_path, SHAPE, LossOptions(), RECIPE)
    assert not torn.exists()
    assert json.loads((tmp_path / "provenance.json").read_text())["steps"] == 60


def test_every_checkpoint_says_where_it_came_from(whole):
    checkpoints = sorted((whole / "checkpoints").glob("checkpoint-*"))
    assert len(checkpoints) == 2
    for checkpoint in checkpoints:
        facts = json.loads((checkpoint / "provenance.json").read_text())
        assert facts["step"] == int(checkpoint.name.split("-")[1])
        assert facts["recipe"]["max_steps"] == 60 and facts["shape"]["semi_ar_width"] == 3
        assert len(facts["data_sha256"][0]) == 64 and facts["versions"]["torch"] and "commit" in facts and "command" in facts


def test_the_best_checkpoint_is_the_one_that_is_kept(whole):
    state = json.loads((whole / "checkpoints" / "trainer_state.json").read_text())
    taus = {entry["step"]: entry["eval_tau"] for entry in state["log_history"] if "eval_tau" in entry}
    best = Path(state["best_model_checkpoint"])
    assert taus[int(best.name.split("-")[1])] == max(taus.values()) and taus[60] is not None
    held_out = json.loads((whole / "provenance.json").read_text())["held_out"]
    # The saved draft is the best one, not the last: bfloat16 alone may move a guess.
    assert held_out["chat"]["tau"] == pytest.approx(max(taus.values()), rel=0.02)
    assert SpecFlashDraft.from_pretrained(whole).config.semi_ar_width == 3


def test_other_settings_in_the_same_folder_are_refused(tmp_path, llama, data, whole):
    os.symlink(whole / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(SpecFlashError, match=r"other settings \(learning_rate\): name another --out"):
        train_draft(llama.path, [data], tmp_path, SHAPE, LossOptions(), replace(RECIPE, learning_rate=1e-3))


def test_a_smaller_start_vocabulary_without_a_start_is_refused(tmp_path, llama, data):
    with pytest.raises(SpecFlashError, match="--start-from names: give both"):
        train_draft(llama.path, [data], tmp_path, SHAPE, LossOptions(), replace(RECIPE, start_vocab_size=20))


def test_a_start_vocabulary_that_the_target_has_not_is_refused(tmp_path, llama, data, whole):
    with pytest.raises(SpecFlashError, match="--start-vocab-size 5000 is more than the "):
        train_draft(llama.path, [data], tmp_path, SHAPE, LossOptions(), replace(RECIPE, start_from=whole, start_vocab_size=5000))


def test_no_answers_is_one_sentence(tmp_path, llama):
    with pytest.raises(SpecFlashError, match="no usable answers in .*nowhere: generate some with `specflash data`"):
        train_draft(llama.path, [tmp_path / "nowhere"], tmp_path, SHAPE, LossOptions(), RECIPE)


def test_gradient_accumulation_is_a_larger_batch(tmp_path, llama, llama_answers):
    """With answers of one length, two batches of 2 accumulated are one batch of 4."""
    folder = AnswerFolder(tmp_path / "answers")
    folder.append([replace(answer, token_ids=answer.token_ids[:20]) for answer in llama_answers])
    weights = []
    for batch_size, accumulation in ((4, 1), (2, 2)):
        out = tmp_path / f"draft-{accumulation}"
        recipe = replace(RECIPE, batch_size=batch_size, accumulation=accumulation, max_steps=2, bf16=False)
        train_draft(llama.path, [folder.folder], out, SHAPE, LossOptions(noise=0.0, negatives=0), recipe)
        state = json.loads((out / "checkpoints" / "trainer_state.json").read_text())
        losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
        weights.append((state["global_step"], losses))
    assert weights[0][0] == weights[1][0] == 2
    assert weights[1][1] == pytest.approx(weights[0][1], rel=0.02)
