"""The records in docs/results, which measured figures are taken from."""

import json
from functools import cache
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "results"


@cache
def record(file: str) -> dict:
    return json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))
