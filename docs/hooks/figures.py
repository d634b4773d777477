"""Measured figures on the pages and in README: what stands between `<!-- figure: NAME ARGUMENTS -->` and `<!-- / -->`.

    python docs/hooks/figures.py        # `make figures`: write them anew, and the plot, from docs/results

A page keeps its figures in its text, so that it also reads where nothing is built; tests/docs/test_figures.py fails where
one is not its record's, and where prose has a figure without a record.
"""

import re
from collections.abc import Callable
from pathlib import Path

import bench_figures
import draft_figures
from records import record

from vllm_specflash.lab.bench.chart import Line, line_chart

ROOT = Path(__file__).resolve().parents[2]
MARKED = re.compile(r"<!-- figure: (?P<words>[^>]+?) -->(?P<shown>.*?)<!-- / -->", re.DOTALL)
FIGURES: dict[str, Callable[..., str]] = {made.__name__: made for made in (*bench_figures.MAKERS, *draft_figures.MAKERS)}
PLOT = ROOT / "docs" / "speed_up.svg"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def filled(text: str) -> str:
    """A page with every marked figure taken from its record.

    Raises:
        KeyError: there is no such figure, or no such row in the record.
    """
    return MARKED.sub(lambda found: f"<!-- figure: {found['words']} -->{_made(found['words'])}<!-- / -->", text)


def _made(words: str) -> str:
    name, *arguments = words.split()
    return FIGURES[name](*arguments)


def plot() -> str:
    """SVG: decoding's speed-up over plain vLLM by task, against requests at a time."""
    found: dict[str, dict[int, float]] = {}
    for file in ("bench-cpu", "bench-cpu-batch32"):
        for one in record(file)["summary"]:
            if one["method"] == "specflash":
                found.setdefault(one["task"], {})[one["batch_size"]] = one["decode_speed_up"]["median"]
    batches = sorted({batch for measured in found.values() for batch in measured})
    lines = [Line(task, [measured.get(batch) for batch in batches]) for task, measured in found.items()]
    return line_chart(batches, lines, "requests at a time", "decoding, times plain vLLM", even=True)


def main() -> None:
    PLOT.write_text(plot(), encoding="utf-8")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(f"written: {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
