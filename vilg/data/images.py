"""Crops and converts images."""

import numpy as np
from PIL import Image


def center_crop(image: Image.Image, size: int) -> np.ndarray:
    """The largest centered square, resized: uint8 [size, size, 3]."""
    return _cut(image, size, min(image.size), 0.5, 0.5)


def random_crop(image: Image.Image, size: int, jitter: float, rng: np.random.Generator) -> np.ndarray:
    """A random square with 1-jitter to 1 of the shorter side, resized: uint8 [size, size, 3]."""
    share, left, top = rng.random(3)
    return _cut(image, size, min(image.size) * (1 - jitter * share), left, top)


def _cut(image: Image.Image, size: int, side: float, left: float, top: float) -> np.ndarray:
    x, y = (image.width - side) * left, (image.height - side) * top
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=(x, y, x + side, y + side)))


def to_unit(pixels: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [0, 1]."""
    return pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255


def to_uint8(images: np.ndarray) -> np.ndarray:
    """[N, 3, H, W] in [0, 1] -> uint8 [N, H, W, 3]."""
    return (images.transpose(0, 2, 3, 1) * 255).round().clip(0, 255).astype(np.uint8)
