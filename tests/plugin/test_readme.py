"""The README says what the code says."""

import dataclasses
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
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links and all((ROOT / link).exists() for link in links)
