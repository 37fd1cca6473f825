"""Pictures as bytes and as what a network reads."""

import numpy as np


def to_unit(pixels: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [0, 1]."""
    return pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255


def to_uint8(images: np.ndarray) -> np.ndarray:
    """[N, 3, H, W] in [0, 1] -> uint8 [N, H, W, 3]."""
    return (images.transpose(0, 2, 3, 1) * 255).round().clip(0, 255).astype(np.uint8)
