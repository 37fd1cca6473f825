"""Arranges several images on one sheet."""

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vilg.data.images import to_uint8

_GAP = 4  # pixels between images
_TEXT = 14  # font size of captions in pixels
_HEAD = _TEXT + 2 * _GAP  # height of a caption
# Fonts with Chinese glyphs on Linux, Windows and macOS. PIL searches the system's font folders.
_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "msyh.ttc",
    "simhei.ttf",
    "PingFang.ttc",
    "STHeiti Light.ttc",
)


def contact_sheet(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Images [N, 3, H, W] in [0, 1] -> uint8 [H', W', 3] with `columns` images in a row (by default a square)."""
    count, _, height, width = images.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    sheet = np.full([rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3], 255, dtype=np.uint8)
    for number, image in enumerate(to_uint8(images)):
        row, column = divmod(number, columns)
        top, left = row * (height + _GAP), column * (width + _GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet


def sheet_size(texts: int, count: int, side: int) -> tuple[int, int]:
    """(width, height) in pixels of the sheet of `count` images for each text."""
    columns = count if texts > 1 else math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    width, height = columns * (side + _GAP) - _GAP, rows * (side + _GAP) - _GAP
    if texts == 1:
        return width, height
    font = chinese_font() is not None
    return max(width, 8 * _TEXT if font else 0), texts * (height + _GAP + (_HEAD if font else 0)) - _GAP


def captioned_sheet(images: np.ndarray, texts: list[str]) -> Image.Image:
    """A sheet with one row of images, float [P, n, 3, H, W] in [0, 1], below each text.

    A text that is too long for its row is truncated. Without a Chinese font on the system, texts are left out.
    """
    font = chinese_font()
    rows = [Image.fromarray(contact_sheet(pictures, columns=len(pictures))) for pictures in images]
    head = _HEAD if font else 0
    width = max(rows[0].width, 8 * _TEXT if font else 0)
    sheet = Image.new("RGB", (width, len(rows) * (rows[0].height + head + _GAP) - _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (row, text) in enumerate(zip(rows, texts)):
        top = number * (row.height + head + _GAP)
        if font:
            pen.text((0, top + _GAP // 2), _cut(text, font, width), "black", font)
        sheet.paste(row, (0, top + head))
    return sheet


@cache
def chinese_font() -> ImageFont.FreeTypeFont | None:
    """The first available font for Chinese, or None."""
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, _TEXT)
        except OSError:
            continue
    return None


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The beginning of a text that fits into `width` pixels, in one line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    fitting = line[:width]  # no more characters than pixels; measuring a long text takes seconds
    if fitting == line and font.getlength(line) <= width:
        return line
    while fitting and font.getlength(fitting + "…") > width:
        fitting = fitting[:-1]
    return fitting + "…"
