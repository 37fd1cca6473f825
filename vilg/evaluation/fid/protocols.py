"""How images are resized and scaled for Inception. FIDs of two protocols cannot be compared."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from PIL import Image

from vilg.arrays import to_numpy
from vilg.evaluation.fid.inception import SIDE


@dataclass(frozen=True)
class Protocol:
    """version: of Inception. resize: uint8 [H, W, 3] -> float32 [SIDE, SIDE, 3] in 0 .. 255. scale: that, for a batch
    [B, SIDE, SIDE, 3], -> what Inception gets. description: for the output.
    """

    version: str
    resize: Callable[[np.ndarray], np.ndarray]
    scale: Callable[[np.ndarray], np.ndarray]
    description: str


def _bilinear(pixels: np.ndarray) -> np.ndarray:
    """Without antialiasing, between the centers of pixels, as PyTorch's interpolate and pytorch-fid do."""
    batch = paddle.to_tensor(pixels.astype(np.float32).transpose(2, 0, 1)[None])
    return to_numpy(F.interpolate(batch, [SIDE, SIDE], mode="bilinear", align_corners=False))[0].transpose(1, 2, 0)


def _bicubic(pixels: np.ndarray) -> np.ndarray:
    """With antialiasing and without rounding, by Pillow, as clean-fid does (arXiv 2104.11222)."""
    channels = [
        Image.fromarray(pixels[:, :, channel].astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        for channel in range(3)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=2).clip(0, 255)


def _pillow(pixels: np.ndarray) -> np.ndarray:
    """Bilinear with antialiasing, rounded to uint8, by Pillow."""
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)


# x in [0, 1] was to be normalized with ImageNet's mean and deviation, and was transformed with these instead.
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)

PROTOCOLS = {
    "tf": Protocol(
        "tensorflow", _bilinear, lambda x: x / 127.5 - 1, "the original Inception; bilinear; pixels in [-1, 1]"
    ),
    "clean": Protocol(
        "tensorflow",
        _bicubic,
        lambda x: (x - 128) / 128,
        "the original Inception; Pillow's bicubic with antialiasing; (pixels - 128) / 128",
    ),
    "dmgan": Protocol(
        "torchvision",
        _pillow,
        lambda x: x / 255 * (_DEVIATION / 0.5) + (_MEAN - 0.5) / 0.5,
        "torchvision's Inception; Pillow's bilinear; pixels x deviation / 0.5 + (mean - 0.5) / 0.5; not calibrated "
        "against published values",
    ),
}
