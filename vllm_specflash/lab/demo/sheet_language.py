"""What people ask about a sheet and what the target answers; wording and order follow the request, as for scenes."""

import json
import re

import numpy as np

from vllm_specflash.lab.demo.pictograms import NAMES
from vllm_specflash.lab.demo.sheets import Sheet
from vllm_specflash.lab.demo.words import NUMBERS, ROWS, a, ask, at, be, listing, upper

_NAME = re.compile(rf"\b({'|'.join(NAMES)})\b")
COLUMNS = ("left", "center", "right")


def _lines(page: tuple[str, ...], across: bool) -> list[list[str]]:
    """The three rows of a page, or its three columns."""
    return [list(page[3 * k : 3 * k + 3] if across else page[k::3]) for k in range(3)]


def _spoken(sheet: Sheet, across: bool) -> str:
    kind, words = ("row", ROWS) if across else ("column", COLUMNS)
    parts = []
    for number, page in enumerate(sheet.pages, 1):
        parts.append(f"Page {NUMBERS[number]}.")
        for word, names in zip(words, _lines(page, across)):
            parts.append(f"{upper(word)} {kind}: {listing([a(name) for name in names])}.")
    return " ".join(parts)


def _rows(s):
    return _spoken(s, across=True)


def _columns(s):
    return _spoken(s, across=False)


def _names(s):
    return "\n".join(f"Page {number}: {', '.join(page)}." for number, page in enumerate(s.pages, 1))


def _table(s):
    parts = []
    for number, page in enumerate(s.pages, 1):
        parts.append(f"Page {number}")
        parts += [f"| {' | '.join(names)} |" for names in _lines(page, across=True)]
    return "\n".join(parts)


def _json(s):
    return json.dumps({f"page {number}": _lines(page, across=True) for number, page in enumerate(s.pages, 1)})


READINGS = {
    "Read the pages row by row.": _rows,
    "Read out every row of the pages.": _rows,
    "Read the pages column by column.": _columns,
    "Read out every column of the pages.": _columns,
    "Name everything on the pages in order.": _names,
    "List all the names, page by page.": _names,
    "Write the pages as a table.": _table,
    "Give the pages as JSON.": _json,
}


def reading(sheet: Sheet, rng: np.random.Generator) -> tuple[str, str]:
    """A request to read the whole sheet out, and the answer of 40 to 180 tokens."""
    return ask(READINGS, sheet, rng)


def names_said(answer: str) -> list[str]:
    """The names of an answer, in its order."""
    return _NAME.findall(answer.lower())


def score(sheet: Sheet, request: str, answer: str) -> tuple[int, int]:
    """Items to read out, and how many of them are the right name at the right turn."""
    wanted, said = names_said(READINGS[request](sheet)), names_said(answer)
    return len(wanted), sum(name == heard for name, heard in zip(wanted, said))


def _row(s, rng):
    page, k, across = int(rng.integers(len(s.pages))), int(rng.integers(3)), rng.random() < 0.5
    words, kind = (ROWS, "row") if across else (COLUMNS, "column")
    names = listing([a(name) for name in _lines(s.pages[page], across)[k]])
    return f"What is in the {words[k]} {kind} of page {NUMBERS[page + 1]}?", f"{upper(names)}."


def _what_at(s, rng):
    page, cell = int(rng.integers(len(s.pages))), int(rng.integers(9))
    name = s.pages[page][cell]
    return f"What is {at(cell)} of page {NUMBERS[page + 1]}?", f"There {be(name)} {a(name)} {at(cell)}."


def _where(s, rng):
    page, cell = int(rng.integers(len(s.pages))), int(rng.integers(9))
    name = s.pages[page][cell]
    return f"Where {be(name)} the {name}?", f"The {name} {be(name)} on page {NUMBERS[page + 1]}, {at(cell)}."


QUESTIONS = (_row, _row, _what_at, _where)


def question(sheet: Sheet, rng: np.random.Generator) -> tuple[str, str]:
    """A short question about one place of the sheet, and its answer."""
    return QUESTIONS[rng.integers(len(QUESTIONS))](sheet, rng)
