"""The README says what the code says."""

import dataclasses
import json
import re
from pathlib import Path

import vllm_specflash
from vllm_specflash import compat
from vllm_specflash.config import SpecFlashOptions

ROOT = Path(vllm_specflash.__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def options_table() -> str:
    rows = ["| option | default | |", "| --- | --- | --- |"]
    for field in dataclasses.fields(SpecFlashOptions):
        rows.append(f"| `{field.name}` | `{field.default}` | {field.metadata['description']} |")
    return "\n".join(rows)


def test_options_table_is_that_of_config():
    (table,) = re.findall(r"<!-- options:.*?-->\n(.*)\n<!-- /options -->", README, re.DOTALL)
    assert table == options_table(), f"put this into README.md:\n{options_table()}"


def test_supported_range_is_that_of_compat():
    assert f"vLLM {compat.SUPPORTED}" in README


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r'src="([^"]+)"', README)
    assert links and all((ROOT / link).exists() for link in links)


def test_measured_speed_is_that_of_the_recorded_benchmark():
    record = json.loads((ROOT / "docs" / "results" / "bench-cpu.json").read_text(encoding="utf-8"))
    recorded = {(r["task"], r["batch_size"], r["method"]): r for r in record["summary"] if r["method"] != "plain"}
    (table,) = re.findall(r"\| task \| batch \| method .*?\n\| ---.*?\n(.*?)\n\n", README, re.DOTALL)
    task, told = "", {}
    for line in table.splitlines():
        name, batch, method, *figures = (cell.strip() for cell in line.strip("|").split("|"))
        task = name.split(",")[0] or task
        told[task, int(batch), method] = figures
    assert told.keys() == recorded.keys()
    for cell, figures in told.items():
        row = recorded[cell]
        draft = row["step"]["draft network"] + row["step"]["draft host"]
        assert figures == [
            f"{row['decode_speed_up']['median']:.2f}x",
            f"{row['end_to_end_speed_up']['median']:.2f}x",
            f"{row['acceptance_length']:.2f}",
            f"{draft:.2f}",
            row["identical"].replace("/", " of "),
        ], cell
