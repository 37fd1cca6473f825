"""Structural similarity (Wang et al., IEEE Transactions on Image Processing 13(4), 2004)."""

import numpy as np

_SIDE, _DEVIATION = 11, 1.5  # of the Gaussian window, in pixels
_C1, _C2 = 0.01**2, 0.03**2  # of pixels in [0, 1]


def mean_ssim(images: np.ndarray, others: np.ndarray) -> float:
    """The mean over images [N, 3, H, W] in [0, 1], channels and all windows that lie inside, of equation (13). Sides
    below 11 pixels take a window of their own size."""
    x, y = images.astype(np.float64), others.astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    similarity = (
        (2 * mean_x * mean_y + _C1)
        * (2 * covariance + _C2)
        / ((mean_x**2 + mean_y**2 + _C1) * (variance_x + variance_y + _C2))
    )
    return float(similarity.mean())


def _blur(images: np.ndarray) -> np.ndarray:
    """Images [.., H, W] -> weighted means of windows, [.., H - side + 1, W - side + 1]."""
    for axis in (-2, -1):
        side = min(_SIDE, images.shape[axis])
        window = np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / _DEVIATION) ** 2)
        images = np.lib.stride_tricks.sliding_window_view(images, side, axis) @ (window / window.sum())
    return images
