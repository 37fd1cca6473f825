"""Finds pictures that are equal to the eye.

Icon sets reuse drawings: a police officer may be the same picture as a policeman, and the flag of Bouvet Island is that
of Norway. Perceptual hashes of the usual kind ignore colours, which tell most of these pictures apart, so small colour
images are compared directly.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

SIDE = 16  # of the compared images
LARGEST_DIFFERENCE = 0.02  # root mean square over all values, of a range of 1: by eye, nothing differs but a detail
_ROWS = 1024  # compared with all others at a time


def reduced(image: Image.Image) -> np.ndarray:
    """What is compared of an RGB image: float32 [3 SIDE^2] in [0, 1]."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32).reshape(-1) / 255


def equal_pairs(images: Sequence[np.ndarray], others: Sequence[np.ndarray] | None = None) -> list[tuple[int, int]]:
    """All (i, j), i < j, of equal `images` from `reduced`.

    With `others`, all (i, j) of equal images[i] and others[j].
    """
    rows = np.stack(images)
    columns = rows if others is None else np.stack(others)
    limit, squares, found = LARGEST_DIFFERENCE**2 * rows.shape[1], (columns**2).sum(1), []
    for first in range(0, len(rows), _ROWS):
        part = rows[first : first + _ROWS]
        distances = (part**2).sum(1)[:, None] + squares - 2 * part @ columns.T
        for i, j in zip(*(axis.tolist() for axis in np.nonzero(distances < limit))):
            if others is not None or first + i < j:
                found.append((first + i, j))
    return found
