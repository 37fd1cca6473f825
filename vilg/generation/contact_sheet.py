"""Many pictures on one."""

import math

import numpy as np

from vilg.data.pixels import to_uint8

_GAP = 4  # pixels of white between pictures


def contact_sheet(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Images [N, 3, H, W] in [0, 1] -> uint8 [H', W', 3]: rows of `columns`, a square where not given."""
    count, _, height, width = images.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    sheet = np.full([rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3], 255, dtype=np.uint8)
    for number, picture in enumerate(to_uint8(images)):
        row, column = divmod(number, columns)
        top, left = row * (height + _GAP), column * (width + _GAP)
        sheet[top : top + height, left : left + width] = picture
    return sheet
