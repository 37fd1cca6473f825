"""Cutting the square that the model sees out of a picture."""

import numpy as np
from PIL import Image


def centre(image: Image.Image, size: int) -> np.ndarray:
    """The largest centred square, resized: uint8 [size, size, 3]."""
    return _cut(image, size, min(image.size), 0.5, 0.5)


def jittered(image: Image.Image, size: int, jitter: float, rng: np.random.Generator) -> np.ndarray:
    """A square of 1-jitter to 1 of the shorter side, anywhere in the picture, resized: uint8 [size, size, 3]."""
    share, left, top = rng.random(3)
    return _cut(image, size, min(image.size) * (1 - jitter * share), left, top)


def _cut(image: Image.Image, size: int, side: float, left: float, top: float) -> np.ndarray:
    x, y = (image.width - side) * left, (image.height - side) * top
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=(x, y, x + side, y + side)))
