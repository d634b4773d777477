"""Sheets: what they hold, how they are read out, and how readings are judged."""

import numpy as np
import pytest

from vllm_specflash.config import SpecFlashError
from vllm_specflash.lab.demo import pictograms, sheet_language
from vllm_specflash.lab.demo.conversations import IMAGE_TOKEN_ID, batch
from vllm_specflash.lab.demo.evaluate import SHEET_REQUESTS, heldout_sheets, reference
from vllm_specflash.lab.demo.pictograms import FONT, NAMES
from vllm_specflash.lab.demo.sheet_language import names_said, score
from vllm_specflash.lab.demo.sheets import Sheet, sample_sheet
from vllm_specflash.lab.demo.split import split_of

needs_font = pytest.mark.skipif(not FONT.exists(), reason="fonts-noto-color-emoji is not installed")


def test_a_page_holds_nine_names_and_no_name_comes_twice():
    rng = np.random.default_rng(0)
    for _ in range(50):
        sheet = sample_sheet(rng)
        names = [name for page in sheet.pages for name in page]
        assert {len(page) for page in sheet.pages} == {9} and len(set(names)) == len(names) == 9 * len(sheet.pages)


@pytest.mark.parametrize("request_", SHEET_REQUESTS)
def test_a_reading_names_every_item_once_and_the_request_none(request_):
    sheet = sample_sheet(np.random.default_rng(1))
    said = names_said(sheet_language.READINGS[request_](sheet))
    assert sorted(said) == sorted(name for page in sheet.pages for name in page)
    assert not names_said(request_)


def test_columns_are_read_downwards():
    sheet = Sheet((tuple(NAMES[:9]),), "blue", 0)
    said = names_said(sheet_language.READINGS["Read the pages column by column."](sheet))
    assert said == [NAMES[i] for i in (0, 3, 6, 1, 4, 7, 2, 5, 8)]


def test_an_item_counts_where_the_right_name_comes_at_its_turn():
    for sheet, request in heldout_sheets(16):
        answer = reference(sheet, request)
        items = 9 * len(sheet.pages)
        assert score(sheet, request, answer) == (items, items)
        first, second = names_said(answer)[:2]
        other = next(name for name in NAMES if name not in names_said(answer))
        assert score(sheet, request, answer.replace(first, other)) == (items, items - 1)
        assert score(sheet, request, answer.replace(first, "#").replace(second, first).replace("#", second))[1] == items - 2
        assert score(sheet, request, "") == (items, 0)


def test_heldout_sheets_are_held_out_and_the_same_every_time():
    sheets = list(heldout_sheets(40))
    assert all(split_of(sheet.content) == "heldout" for sheet, _ in sheets)
    assert sheets == list(heldout_sheets(40))


@needs_font
def test_pages_are_pictures_of_their_nine_places():
    sheet = sample_sheet(np.random.default_rng(2))
    pictures, labels, places = sheet.labelled()
    assert pictures.shape == (len(sheet.pages), 96, 96, 3) and (pictures == sheet.pictures()).all()
    for page, shown, where in zip(sheet.pages, labels, places):
        for cell, name in enumerate(page):
            assert (where[shown == NAMES.index(name) + 1] == cell).all()
            assert (shown == NAMES.index(name) + 1).any()


@needs_font
def test_a_training_batch_of_sheets_shares_the_pages_among_its_turns():
    class Tokenizer:
        def __call__(self, text):
            return type("Encoding", (), {"input_ids": [ord(c) % 97 + 100 for c in text]})

    steps = [batch(step, Tokenizer(), sheets=1.0) for step in range(2)]
    for data in steps:
        rows = len(data["tokens"])
        assert (data["tokens"] == IMAGE_TOKEN_ID).sum() == 64 * len(data["pictures"]) and len(data["pictures"]) % rows == 0
        assert not data["wanted"][data["tokens"] == IMAGE_TOKEN_ID].any()


def test_without_the_font_one_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(pictograms, "FONT", tmp_path / "none.ttf")
    pictograms._artwork.cache_clear()
    with pytest.raises(SpecFlashError, match="install the Debian package fonts-noto-color-emoji"):
        pictograms._artwork("dog")
