"""Image metrics: PSNR, SSIM and the nearest image by squared error."""

import numpy as np


def mean_psnr(images: np.ndarray, others: np.ndarray) -> float:
    """Mean over images [N, 3, H, W] in [0, 1] of `psnr`, in dB."""
    return float(psnr(images, others).mean())


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """-10 log10(mean squared error) of each of the images [N, 3, H, W] in [0, 1], in dB: float64 [N]."""
    errors = ((images.astype(np.float64) - others) ** 2).mean(axis=(1, 2, 3))
    return -10 * np.log10(np.maximum(errors, 1e-10))


_SIDE, _DEVIATION = 11, 1.5  # side of the Gaussian window in pixels
_C1, _C2 = 0.01**2, 0.03**2  # constants for pixels in [0, 1]


def mean_ssim(images: np.ndarray, others: np.ndarray) -> float:
    """Mean over images [N, 3, H, W] in [0, 1] of `ssim`."""
    return float(ssim(images, others).mean())


def ssim(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """SSIM (Wang et al. 2004, equation (13)) of each of the images [N, 3, H, W] in [0, 1]: float64 [N], the mean over
    channels and all windows inside the image.

    For sides below 11 pixels the window has the size of the image.
    """
    x, y = images.astype(np.float64), others.astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    similarity = (
        (2 * mean_x * mean_y + _C1)
        * (2 * covariance + _C2)
        / ((mean_x**2 + mean_y**2 + _C1) * (variance_x + variance_y + _C2))
    )
    return similarity.mean(axis=(1, 2, 3))


def _blur(images: np.ndarray) -> np.ndarray:
    """Weighted means over windows of images [.., H, W]: [.., H - side + 1, W - side + 1]."""
    for axis in (-2, -1):
        side = min(_SIDE, images.shape[axis])
        window = np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / _DEVIATION) ** 2)
        images = np.lib.stride_tricks.sliding_window_view(images, side, axis) @ (window / window.sum())
    return images


def nearest(images: np.ndarray, among: np.ndarray) -> np.ndarray:
    """For each of `images` [M, 3, H, W], the index of the image of `among` [N, 3, H, W] with the smallest squared
    error.

    Returns int64 [M]. Memory grows with M x N and not with the number of pixels.
    """
    images, among = images.reshape(len(images), -1), among.reshape(len(among), -1)
    return (np.square(among).sum(1) - 2 * images @ among.T).argmin(1)
