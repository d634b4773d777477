"""Speed behind a server, with one tiny server in both places."""

import json
from contextlib import contextmanager
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from vllm_specflash.cli import app
from vllm_specflash.lab.bench.document import Document
from vllm_specflash.lab.bench.prompts import load_task
from vllm_specflash.lab.bench.schedule import Plan
from vllm_specflash.lab.bench.targets import Target
from vllm_specflash.lab.serving import served
from vllm_specflash.lab.serving.clients import Outcome
from vllm_specflash.lab.serving.request import Request
from vllm_specflash.lab.serving.served import ServedOptions, ServedPass, measure_served

OFFLINE = {"target": "tiny", "batch_size": 2, "method": "specflash", "decode_speed_up": {"median": 2.5},
           "end_to_end_speed_up": {"median": 1.5}}  # fmt: skip


@pytest.fixture
def document(tmp_path, prompts_folder):
    """A benchmark that chose its prompts and has a summary."""
    plan = asdict(Plan(max_tokens=16, dtype="float32", max_model_len=256, enforce_eager=True))
    made = Document(tmp_path / "bench.json", {"plan": plan})
    for task, names in (("words", ("text-1", "text-0")), ("pictures", ("picture-0", "picture-1"))):
        by_id = {prompt.id: prompt for prompt in load_task(task, prompts_folder)}
        made.choose("tiny", task, [by_id[name] for name in names])
    made.data["summary"] = [{**OFFLINE, "task": task} for task in ("words", "pictures")]
    made.save()
    return made


def test_passes_take_turns_and_are_compared_with_the_benchmark(
    document, server, image_target, prompts_folder, tmp_path, monkeypatch
):
    started = []

    @contextmanager
    def running(model, arguments, log):
        started.append(arguments)
        yield SimpleNamespace(address=server)

    monkeypatch.setattr(served, "Server", running)
    monkeypatch.setattr(served, "MODEL", "tiny")
    monkeypatch.setattr(served, "QUIET_SECONDS", 0)
    said = []
    target = Target("tiny", str(image_target), None, ("words", "pictures"))
    rows = measure_served(document, target, ServedOptions(2, 2), prompts_folder, tmp_path, said.append)
    assert [(row.task, row.clients, row.identical) for row in rows] == [("words", 2, "2/2"), ("pictures", 2, "2/2")]
    assert all((row.offline_decode, row.offline_end_to_end) == (2.5, 1.5) for row in rows)
    assert all(row.first_ms > 0 and row.decode_speed_up.median > 0 for row in rows)
    # The second repeat begins with the other method.
    turns = [line.rsplit(": ")[1] for line in said if "pictures" in line]
    assert turns == ["plain", "specflash", "specflash", "plain"]
    plain, ours = started
    assert ours[:-2] == plain and json.loads(ours[-1]) == {"method": "specflash"}


def outcome(name: str, began: float, first: float, last: float, tokens: int, error: str | None = None) -> Outcome:
    return Outcome(Request(name, {}, None), [7] * tokens, error=error, began=began, first=first, last=last)


def test_times_per_token():
    done = ServedPass.of([outcome("a", 0, 1, 3, 11), outcome("b", 0, 2, 3, 6)], seconds=3.4)
    assert done.decode == pytest.approx(3 / 15)
    assert done.end_to_end == pytest.approx(3.4 / 17)
    assert done.first == 1.5


def test_a_failed_request_is_no_measurement():
    with pytest.raises(ValueError, match="1 of 2 requests failed, see the server's log; first: APIError: no"):
        ServedPass.of([outcome("a", 0, 1, 2, 4), outcome("b", 0, 0, 0, 0, "APIError: no")], 2.0)


def test_a_task_that_was_not_measured_is_one_sentence(document, image_target):
    target = Target("tiny", str(image_target), None, ("music",))
    with pytest.raises(ValueError, match="has no prompts of task 'music' for tiny: name one that was measured"):
        measure_served(document, target, ServedOptions(), document.path.parent, document.path.parent, print)


def test_a_missing_benchmark_is_one_sentence(tmp_path):
    result = CliRunner().invoke(app, ["served", str(tmp_path / "none.json")])
    assert result.exit_code == 1 and "make it with specflash bench" in " ".join(result.output.split())
