"""Rows of images below their texts, with a font that is part of Pillow."""

import numpy as np
import pytest
from PIL import ImageFont

from vilg.generation import contact_sheet
from vilg.generation.contact_sheet import captioned_sheet

HEAD, GAP = 22, 4  # pixels of a text, and below a row
BLACK = np.zeros([3, 2, 3, 16, 70])  # three rows of two images


@pytest.fixture
def font(monkeypatch):
    found = ImageFont.load_default(14)
    monkeypatch.setattr(contact_sheet, "chinese_font", lambda: found)
    return found


def grey(sheet):
    return np.asarray(sheet).mean(-1)


def test_every_row_is_below_its_text(font):
    pixels = grey(captioned_sheet(BLACK, ["apple", "an elephant", "i"]))
    assert pixels.shape == (3 * (HEAD + 16 + GAP) - GAP, 144)
    ink = []
    for top in range(0, len(pixels), HEAD + 16 + GAP):
        assert (pixels[top + HEAD : top + HEAD + 16, :70] == 0).all()
        ink.append((pixels[top : top + HEAD] < 255).sum())
    assert ink[1] > ink[0] > ink[2] > 0


def test_a_text_that_is_too_long_for_its_row_is_shortened(font):
    cut = contact_sheet._cut("a" * 99, font, 144)
    kept = len(cut) - 1
    assert cut == "a" * kept + "…" and font.getlength(cut) <= 144 < font.getlength("a" * (kept + 1) + "…")
    assert contact_sheet._cut("apple", font, 144) == "apple"
    assert np.array_equal(grey(captioned_sheet(BLACK, ["a" * 99, "", ""])), grey(captioned_sheet(BLACK, [cut, "", ""])))


@pytest.mark.parametrize("text", ["an\napple", "an\r\n\tapple ", "an\x00\u2028apple"])
def test_control_characters_are_spaces(font, text):
    """Pillow cannot lay out several lines here."""
    assert contact_sheet._cut(text, font, 144) == "an apple"
    assert np.array_equal(grey(captioned_sheet(BLACK, [text] * 3)), grey(captioned_sheet(BLACK, ["an apple"] * 3)))


def test_a_very_long_text_is_measured_only_in_part(font, monkeypatch):
    measured, getlength = [], font.getlength
    monkeypatch.setattr(font, "getlength", lambda text: measured.append(len(text)) or getlength(text))
    assert contact_sheet._cut("a" * 100_000, font, 144) == contact_sheet._cut("a" * 99, font, 144)
    assert max(measured) <= 145


@pytest.mark.parametrize("texts, count", [(1, 1), (1, 5), (3, 2), (2, 1)])
def test_the_size_of_a_sheet_is_known_in_advance(font, texts, count):
    images = np.zeros([texts, count, 3, 16, 16])
    sheet = captioned_sheet(images, ["a"] * texts) if texts > 1 else None
    width, height = contact_sheet.sheet_size(texts, count, 16)
    shape = contact_sheet.contact_sheet(images[0]).shape[:2] if sheet is None else sheet.size[::-1]
    assert (height, width) == tuple(shape)


def test_rows_have_no_texts_without_a_chinese_font(monkeypatch):
    monkeypatch.setattr(contact_sheet, "chinese_font", lambda: None)
    assert grey(captioned_sheet(BLACK, ["apple"] * 3)).shape == (3 * (16 + GAP) - GAP, 144)
