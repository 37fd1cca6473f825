"""Peak signal-to-noise ratio."""

import numpy as np


def mean_psnr(images: np.ndarray, others: np.ndarray) -> float:
    """The mean over images [N, 3, H, W] in [0, 1] of -10 log10(mean squared error), in dB."""
    errors = ((images.astype(np.float64) - others) ** 2).mean(axis=(1, 2, 3))
    return float(-10 * np.log10(np.maximum(errors, 1e-10)).mean())
