"""The ablation: rows that differ in one thing, kept when they are done, in one table."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vllm_specflash.cli import app
from vllm_specflash.train.ablation import table_rows
from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.dataset import is_one_in
from vllm_specflash.train.shape import DraftOptions


@pytest.fixture
def command(tmp_path, llama, llama_answers) -> list[str]:
    AnswerFolder(tmp_path / "own").append(llama_answers)
    return [
        "ablate", "--target", llama.path, "--data", str(tmp_path / "own"), "--features", str(tmp_path / "features"),
        "--out", str(tmp_path / "out"), "--table", str(tmp_path / "table.md"), "--max-steps", "4", "--batch-size", "2",
        "--held-out-share", "0.3", "--draft-vocab-size", "40", "--num-latents", "4", "--semi-ar-width", "3",
        "--head-expansion", "1", "--transition-rank", "0",
    ]  # fmt: skip


def _rows(page: str) -> list[str]:
    return [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")]


def test_rows_are_trained_one_by_one_and_kept(tmp_path, command):
    run = CliRunner().invoke(app, [*command, "--row", "base", "--row", "width-8"])
    assert run.exit_code == 0, run.output + str(run.exception)
    done = tmp_path / "out" / "base" / "row.json"
    before, page = done.stat().st_mtime_ns, (tmp_path / "table.md").read_text()
    assert [name for name in _rows(page) if name not in ("row", "---")] == ["base", "base", "width-8"]
    assert "4 steps of 2 answers" in page and "Not trained yet, the command goes on with them: no-compression, paper, latents-16" in page
    run = CliRunner().invoke(app, [*command, "--row", "base", "--row", "variant-plain"])
    assert run.exit_code == 0, run.output + str(run.exception)
    # What was done is read, not trained again, and stays in the table.
    assert done.stat().st_mtime_ns == before
    page = (tmp_path / "table.md").read_text()
    assert [name for name in _rows(page) if name not in ("row", "---")] == ["base", "base", "width-8", "base", "variant-plain"]
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert [row["row"]["name"] for row in found["rows"]] == ["base", "width-8", "variant-plain"]
    width_8 = found["rows"][1]
    assert set(width_8["tau"]) == {"one round", "two rounds", "chain of 8", "trees of 16"}
    assert width_8["all"]["trees of 16"] >= width_8["all"]["one round"]
    assert 0 <= width_8["calibration_error"] <= 1 and 0 <= width_8["first"] <= 1
    run = CliRunner().invoke(app, [*command, "--row", "base", "--learning-rate", "0.5"])
    assert run.exit_code == 1 and "base holds a training with other settings (learning_rate): name another --out" in run.output
    # Eight tokens in one round are a chain of eight.
    assert width_8["tau"]["chain of 8"] == width_8["tau"]["one round"]
    assert all(1 <= row["tau"]["one round"]["chat"] <= 1 + width for row, width in zip(found["rows"], (3, 8, 3), strict=True))


def test_every_row_of_the_table_changes_one_thing():
    rows = table_rows(DraftOptions())
    names = [row.name for row in rows]
    assert len(set(names)) == len(names) and names[0] == "base"
    assert {f"width-{k}" for k in (1, 2, 3, 4, 6, 7, 8)} < set(names) and "width-5" not in names
    assert {"no-compression", "paper", "latents-4", "latents-64", "variant-plain", "transition-0", "dataset-answers"} < set(names)
    for row in rows[1:]:
        assert len(row.changes) + bool(row.loss) + (row.one_in > 1) + row.dataset_answers == 1
    assert {"feed-forward-1536", "answers-1-in-2", "selector-128", "loss-total-variation", "loss-acceptance", "loss-on-policy", "layers-2-15-27"} < set(names)


def test_fewer_answers_are_a_share_of_the_same(tmp_path, command):
    run = CliRunner().invoke(app, [*command, "--row", "base", "--row", "answers-1-in-2"])
    assert run.exit_code == 0, run.output + str(run.exception)
    base, half = (json.loads((tmp_path / "out" / name / "provenance.json").read_text()) for name in ("base", "answers-1-in-2"))
    assert 0 < half["answers"] < base["answers"] and half["steps"] == base["steps"] == 4
    assert half["held_out"].keys() == base["held_out"].keys()
    assert all(is_one_in(name, 2) for name in map(str, range(99)) if is_one_in(name, 4))
    assert 20 < sum(is_one_in(name, 4) for name in map(str, range(100))) < 30


def test_an_unknown_row_and_missing_settings_are_refused(command, tmp_path):
    run = CliRunner().invoke(app, [*command, "--row", "width-99"])
    assert run.exit_code == 1 and "There is no row width-99: the rows are base, no-compression, paper" in run.output
    run = CliRunner().invoke(app, [*command, "--max-steps", "0"])
    assert run.exit_code == 1 and "needs --max-steps" in run.output


def test_without_compression_every_visual_position_is_seen(tmp_path, llava):
    """16 positions of an image, in place of 4 latents."""
    from PIL import Image

    from vllm_specflash.train.answers import Answer
    from vllm_specflash.train.prompts import Prompt

    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    parts = [{"type": "image", "path": str(tmp_path / "a.png")}, {"type": "text", "text": "what is it"}]
    folder = AnswerFolder(tmp_path / "own")
    folder.append([
        Answer(Prompt(f"p{i}", "scenes", [{"role": "user", "content": parts}]), list(range(20 + i, 34 + i)), "", 0.0)
        for i in range(8)
    ])  # fmt: skip
    command = [
        "ablate", "--target", llava.path, "--data", str(tmp_path / "own"), "--features", str(tmp_path / "features"),
        "--out", str(tmp_path / "out"), "--max-steps", "2", "--batch-size", "2", "--held-out-share", "0.3",
        "--draft-vocab-size", "0", "--num-latents", "4", "--row", "base", "--row", "no-compression",
    ]  # fmt: skip
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output + str(run.exception)
    base, whole = json.loads((Path(tmp_path) / "out" / "ablation.json").read_text())["rows"]
    assert whole["kv_rows"] - base["kv_rows"] == 12
    assert whole["attended_rows"] - base["attended_rows"] == 12
