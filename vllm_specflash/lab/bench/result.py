"""How measured results are written: whole or not at all, a line per part, no path that only one machine has."""

import json
import os
from pathlib import Path

from vllm_specflash.lab.checkout import ROOT


def write_result(path: Path, parts: dict) -> None:
    """Write the parts as one JSON object, over whatever was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    # A line per part: short, and a change shows where it is.
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(part)}" for name, part in parts.items())
    scratch.write_text(shortened(f"{{\n{lines}\n}}\n"), encoding="utf-8")
    os.replace(scratch, path)


def shortened(text: str) -> str:
    """Paths as anyone would write them: a result is read elsewhere than where it was measured."""
    return text.replace(f"{ROOT}/", "").replace(str(Path.home()), "~")
