"""Troubleshooting quotes the sentences that the code says, all of them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
QUOTED = [line[2:] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("> ")]


def _sentences(file: Path) -> Iterator[str]:
    """Every string of a file, with … in place of what is filled in."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield _template(node)


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return node.value


def _errors(file: Path) -> Iterator[str]:
    """Sentences given to SpecFlashError where it is raised, but for those that pass another's on."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "SpecFlashError" and node.args:
            if isinstance(node.args[0], (ast.Constant, ast.JoinedStr)):
                yield _template(node.args[0])


FILES = sorted((ROOT / "vllm_specflash").rglob("*.py"))


@pytest.mark.parametrize("quoted", QUOTED)
def test_what_is_quoted_is_said(quoted):
    assert any(quoted == sentence for file in FILES for sentence in _sentences(file))


def test_all_that_is_said_is_quoted():
    # One of them only joins two others.
    said = {sentence for file in FILES for sentence in _errors(file) if re.search("[a-z]{3}", sentence)}
    assert len(said) > 15
    missing = sorted(said - set(QUOTED))
    assert not missing, f"explain these in {PAGE.relative_to(ROOT)}, as quotes:\n" + "\n".join(missing)


def test_pages_quote_nothing_else():
    """A quote on another page would not be compared with the code."""
    others = [page for page in (ROOT / "docs").glob("*.md") if page != PAGE]
    assert not [page.name for page in others if re.search(r"^> ", page.read_text(encoding="utf-8"), re.MULTILINE)]
