"""Figures on the pages are those of their records, and prose has none without a record."""

import re

import bench_figures
import figures
import pytest
from documents import PAGES, README, ROOT

ALL = [README, *PAGES]
# A speed-up, a share, a length in tokens with its decimals, a time or an amount of memory.
FIGURE = re.compile(r"\b\d[\d,]*(?:\.\d+)?(?:x\b|%| ?(?:ms|us|MiB|GiB|GB|KiB|minutes|min|s)\b)|(?<![\d.v])\b\d\.\d{2,3}\b(?!\.\d)")
# Nothing that was measured: bars, settings, sizes of what is packed, versions.
SAID = {
    "README.md": ["0.02", "vLLM 0.26 to 0.33", "0.32", "3.11"],
    "docs/limits.md": ["more than 2%", "vLLM 0.32", "0.26", "5.17"],
    "docs/measuring.md": ["bar of 2%", "torch 2.11", "0.62"],
    "docs/quick_start.md": ["Python 3.11"],
    "docs/troubleshooting.md": ["before 0.30"],
}
# What is computed from published rates says so in its heading.
COMPUTED = re.compile(r"^### [^\n]*\(computed, not measured\)\n.*?(?=^##)", re.DOTALL | re.MULTILINE)


def _prose(text: str) -> str:
    """A page without code, comments, addresses and marked figures."""
    for removed in (figures.MARKED, COMPUTED, re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE), re.compile(r"<!--.*?-->", re.DOTALL),
                    re.compile(r"^ {4}\S.*$", re.MULTILINE), re.compile(r"`[^`\n]+`"), re.compile(r"\]\([^)]*\)"), re.compile(r"arXiv \S+")):  # fmt: skip
        text = removed.sub("", text)
    return text


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.stem)
def test_figures_are_those_of_their_records(page):
    text = page.read_text(encoding="utf-8")
    assert text == figures.filled(text), f"{page.name} is older than docs/results: run `make figures`"


@pytest.mark.parametrize("page", [page for page in ALL if page.name != "kernels.md"], ids=lambda page: page.stem)
def test_prose_has_no_figure_without_a_record(page):
    prose = _prose(page.read_text(encoding="utf-8"))
    for said in SAID.get(page.relative_to(ROOT).as_posix(), ()):
        prose = prose.replace(said, "")
    assert not FIGURE.findall(prose), "mark it with <!-- figure: ... --> (docs/hooks/figures.py), or leave it out"


def test_the_plot_is_drawn_from_the_record():
    assert figures.PLOT.read_text(encoding="utf-8") == figures.plot(), "docs/speed_up.svg is older than docs/results: run `make figures`"


def test_the_net_catches_figures():
    caught = FIGURE.findall("it is 1.73x as fast, 12% of 3.5 ms, 14 MiB, tau 3.58, in 11 minutes; vLLM 0.26.0 and five of 8")
    assert caught == ["1.73x", "12%", "3.5 ms", "14 MiB", "3.58", "11 minutes"]


def test_pages_have_marked_figures():
    marked = {page.stem: len(figures.MARKED.findall(page.read_text(encoding="utf-8"))) for page in ALL}
    assert marked["README"] > 10 and marked["training"] > 20 and marked["trees"] > 10


def test_readme_names_the_command_that_made_its_table():
    command = bench_figures.record("bench-cpu")["provenance"]["command"].removesuffix(" --out bench-cpu.json")
    assert f"\n    {command} " in README.read_text(encoding="utf-8")


def test_a_range_of_one_figure_is_that_figure(monkeypatch):
    passes = [
        {"task": "scenes", "method": method, "batch_size": batch, "outputs": [{"first_seconds": seconds}]}
        for method, batch, seconds in (("plain", 1, 1.0), ("ngram", 1, 1.91), ("plain", 8, 1.0), ("ngram", 8, 1.94))
    ]
    monkeypatch.setattr(bench_figures, "record", lambda file: {"passes": passes})
    assert bench_figures.late_first_token("made up", "scenes", "ngram") == "1.9 times"
    passes[1]["outputs"][0]["first_seconds"] = 1.0
    assert bench_figures.late_first_token("made up", "scenes", "ngram") == "1.0 to 1.9 times"
