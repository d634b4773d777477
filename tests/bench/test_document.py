"""Results are written without the paths of the machine that measured them, and go on all the same."""

import json
from pathlib import Path

import pytest

from vllm_specflash.lab.bench.document import Document
from vllm_specflash.train.prompts import Prompt


def asked(text: str) -> list[Prompt]:
    return [Prompt(name, "chat", [{"role": "user", "content": f"{name} {text}"}]) for name in "abc"]



def test_paths_are_written_short_and_the_file_is_continued(tmp_path):
    settings = {"targets": [{"model": str(Path.home() / "models" / "target")}]}
    first = Document(tmp_path / "bench.json", settings)
    first.choose("target", "chat", asked("why?")[:2])
    text = (tmp_path / "bench.json").read_text()
    assert "~/models/target" in text and str(Path.home()) not in json.dumps(json.loads(text)["settings"])
    assert Document(tmp_path / "bench.json", settings).prompts("target", "chat") == ["a", "b"]


def test_a_file_goes_on_with_the_prompts_that_it_began_with(tmp_path):
    document = Document(tmp_path / "bench.json", {})
    document.choose("target", "chat", asked("why?")[:2])
    assert Document(tmp_path / "bench.json", {}).found_again("target", "chat", asked("why?")) == asked("why?")[:2]
    for others in (asked("why?")[1:], asked("how?")):
        with pytest.raises(ValueError, match="bench.json was made with other prompts: name another file"):
            document.found_again("target", "chat", others)
    # Earlier versions wrote down nothing but ids.
    del document.data["prompts_sha256"]
    assert document.found_again("target", "chat", asked("how?")) == asked("how?")[:2]
