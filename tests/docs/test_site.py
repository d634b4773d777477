"""The site builds without a warning, reads without a network, and says what the code and the results say."""

import dataclasses
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

from documents import ROOT

from vllm_specflash import compat
from vllm_specflash.cli import COMMANDS
from vllm_specflash.config import SpecFlashOptions
from vllm_specflash.engine.stats import ACCEPTANCE_LENGTH, PREFIX, DraftStats


class _Fetched(HTMLParser):
    """Addresses that a browser fetches by itself to show a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.found.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(given.get("href") or "")


def test_no_page_fetches_anything_from_elsewhere(site):
    pages = list(site.glob("*.html"))
    assert len(pages) > 10
    for page in pages:
        seen = _Fetched()
        seen.feed(page.read_text(encoding="utf-8"))
        assert len(seen.found) > 2
        assert not [address for address in seen.found if re.match(r"(https?:)?//", address)], page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def _text(page: Path) -> str:
    return unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_every_option_is_described(site):
    text = _text(site / "options.html")
    for field in dataclasses.fields(SpecFlashOptions):
        # Markdown takes the backticks away.
        assert field.metadata["description"].replace("`", "") in text, field.name
        assert json.dumps(field.default) in text


def test_every_command_is_listed(site):
    text = _text(site / "index.html")
    assert all(f"specflash {name}" in text and description in text for name, description in COMMANDS.items())


def test_supported_versions_are_those_of_compat(site):
    assert f"It runs on vLLM {compat.SUPPORTED}." in _text(site / "index.html")


def test_metrics_are_those_of_the_code(site):
    text = _text(site / "serving.html")
    names = {f"{metric}_total" for _, metric, _ in DraftStats.described()} | {ACCEPTANCE_LENGTH}
    assert set(re.findall(rf"{PREFIX}\w+", text)) == names
    assert all(description in text for _, _, description in DraftStats.described())


def test_speed_ups_are_those_that_were_measured(site):
    text = _text(site / "comparison.html")
    rows = json.loads((ROOT / "docs" / "results" / "bench-cpu.json").read_text())["summary"]
    for row in rows:
        if row["task"] != "chat" and row["method"] == "specflash":
            assert f"{row['decode_speed_up']['median']:.2f}x" in text
            assert f"{row['end_to_end_speed_up']['median']:.2f}x" in text


def test_nothing_is_left_to_generate(site):
    assert not [page.name for page in site.glob("*.html") if "<!-- generated" in page.read_text(encoding="utf-8")]
