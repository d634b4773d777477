"""Results are written without the paths of the machine that measured them, and go on all the same."""

import json
from pathlib import Path

from vllm_specflash.lab.bench.document import Document


def test_paths_are_written_short_and_the_file_is_continued(tmp_path):
    settings = {"targets": [{"model": str(Path.home() / "models" / "target")}]}
    first = Document(tmp_path / "bench.json", settings)
    first.choose("target", "chat", ["a", "b"])
    text = (tmp_path / "bench.json").read_text()
    assert "~/models/target" in text and str(Path.home()) not in json.dumps(json.loads(text)["settings"])
    assert Document(tmp_path / "bench.json", settings).prompts("target", "chat") == ["a", "b"]
