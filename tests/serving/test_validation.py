"""Input of clients is converted to the expected types, or refused with a one-line error."""

import io
import math

import pytest
from PIL import Image

from tests.conftest import png
from vilg.errors import UserError
from vilg.serving import validation
from vilg.serving.limits import Limits

SMALL = Limits(pictures=2, beams=2, characters=20, megabytes=1, megapixels=1, waiting=2, rows=2)


def drawn(width, height, kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "given, message",
    [
        (None, "the text is missing"),
        (["红"], "the text is not a string"),
        (" \n", "the text is empty"),
        ("\u200b", "the text is empty: .* has no visible characters"),
        ("红" * 21, "21 characters, at most 20"),
        ("红苹果红苹果", "6 tokens, the model reads 5 tokens"),
        ("红\ud83c", "not a text in UTF-8"),
    ],
)
def test_texts(predictor, given, message):
    with pytest.raises(UserError, match=message):
        validation.text(given, SMALL, predictor)
    assert validation.text(" 红苹果\n", SMALL, predictor) == ("红苹果", [])
    assert validation.text("红🙂", SMALL, predictor)[1] == ["红🙂: the vocabulary lacks 🙂"]


@pytest.mark.parametrize(
    "given, message",
    [
        (None, "an image is required"),
        (b"", "the image cannot be read"),
        (b"<svg/>", "the image cannot be read"),
        (png(0)[:60], "the image cannot be read"),
        (bytes(10**6 + 1), "1.0 MB, at most 1"),
        (drawn(1001, 1000), "1001 x 1000 pixels, at most 1 million"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_images(given, message):
    with pytest.raises(UserError, match=message):
        validation.image(given, SMALL)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_images_of_every_format_are_read(kind):
    picture = validation.image(drawn(30, 20, kind), SMALL)
    assert picture.mode == "RGB" and picture.size == (30, 20)


@pytest.mark.parametrize("given", ["x", None, [1], {"a": 1}, math.nan, math.inf, "1e999", 10**400])
def test_invalid_numbers(given):
    for check in (validation.number, lambda name, one: validation.integer(name, one, 0, 9)):
        with pytest.raises(UserError, match="seed .*: not a number"):
            check("seed", given)


def test_numbers():
    assert (
        validation.integer("n", "3", 1, 3) == 3
        and validation.integer("n", 3.0, 1, 3) == 3
        and validation.number("t", "0.5") == 0.5
    )
    for given in (0, 4, 2.5):
        with pytest.raises(UserError, match=f"n {given}: must be a whole number from 1 to 3"):
            validation.integer("n", given, 1, 3)
    with pytest.raises(UserError, match="guidance -1: must be at least 0"):
        validation.number("guidance", -1, lowest=0)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"waiting": 0}, "--waiting 0: must be positive"),
        ({"rows": 4}, "--rows 4: has to be at least 8, the largest request"),
    ],
)
def test_contradictory_limits(wrong, message):
    with pytest.raises(UserError, match=message):
        Limits(**wrong)
