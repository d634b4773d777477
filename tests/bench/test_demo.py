from dataclasses import replace

from engines import ALWAYS
from rich.console import Console

from vllm_specflash.lab.bench import schedule
from vllm_specflash.lab.bench.demo import DemoOptions, run_demo
from vllm_specflash.lab.bench.thumbnail import thumbnail
from vllm_specflash.lab.showcase import DEMO_TARGETS, DemoTarget


def test_demo_shows_tables_and_answers(image_target, prompts_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("SPECFLASH_CACHE", str(tmp_path))
    setup = schedule.Plan.setup

    def small(plan, target, method, *arguments):
        if method.is_specflash:
            method = replace(method, speculative_config={**method.speculative_config, **ALWAYS})
        return setup(replace(plan, enforce_eager=True, kv_cache_gib=0.05), target, method, *arguments)

    monkeypatch.setattr(schedule.Plan, "setup", small)
    target = DemoTarget("tiny", "A tiny target", lambda: image_target, image_target / "specflash", ("words", "pictures"))
    console = Console(width=110, record=True, file=open("/dev/null", "w"))
    found = run_demo(DemoOptions(prompts=2, repeats=1, max_tokens=64), prompts_folder, console, [target])
    text = console.export_text()
    assert [(row.task, row.method) for row in found] == [
        (task, method) for task in ("words", "pictures") for method in ("plain", "specflash")
    ]
    assert "A tiny target: one request at a time" in text
    assert "what is this?" in text and "both:" in text
    assert "share of drafts accepted" in text


def test_thumbnail_has_two_pixels_a_cell(prompts_folder):
    lines = thumbnail(prompts_folder / "0.png", columns=8).plain.splitlines()
    assert len(lines) == 4 and all(len(line) == 8 for line in lines)


def test_demo_targets_name_tasks_that_are_shipped():
    from vllm_specflash.lab.bench.prompts import load_tasks

    assert {task for target in DEMO_TARGETS for task in target.tasks} <= set(load_tasks())
