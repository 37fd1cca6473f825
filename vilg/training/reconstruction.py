"""Held-out images of an image tokenizer, and how well the tokenizer reconstructs them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import paddle

from vilg import config
from vilg.arrays import to_numpy
from vilg.data.heldout import HeldoutSamples, no_usable_image
from vilg.data.images import to_unit
from vilg.evaluation.image_metrics import psnr, ssim
from vilg.image import lpips
from vilg.image.quantizer import CodeUsage, count_codes
from vilg.image.tokenizer import ImageTokenizer

_PIXELS_TOGETHER = 64 * 64**2  # pixels in one pass: 64 emoji, or four images of 256 x 256


@dataclass(frozen=True)
class HeldoutImages:
    """Images in uint8 [N, H, W, 3], which take a quarter of the memory of fp32.

    own: those that this rank measures, every ranks-th one. first: the first ones of all, equal on all ranks.
    """

    own: np.ndarray
    first: np.ndarray


def read_heldout_images(settings: config.Data, first: int, rank: int = 0, ranks: int = 1) -> HeldoutImages:
    """The images of `data.heldout` that this rank needs. Raises UserError if none of all is usable."""
    samples = HeldoutSamples(settings, captions=False)
    shown: list[np.ndarray] = []
    for _, sample, _ in samples.read(range(len(samples))):
        shown.append(sample.image)
        if len(shown) == first:
            break
    if not shown:
        raise no_usable_image()
    positions = range(rank, len(samples), ranks)
    own = np.empty([len(positions), settings.image_size, settings.image_size, 3], np.uint8)
    count = 0
    for _, sample, _ in samples.read(positions):
        own[count] = sample.image
        count += 1
    return HeldoutImages(own[:count], np.stack(shown))


@dataclass(frozen=True)
class Reconstruction:
    """Measurements of images: {metric: one value for each image}, and how often each code was chosen, int64 [codes]."""

    values: dict[str, np.ndarray]
    chosen: paddle.Tensor


def measure_reconstruction(
    tokenizer: ImageTokenizer, images: np.ndarray, distance: lpips.LPIPS | None
) -> Reconstruction:
    """Encode and decode images, uint8 [N, H, W, 3] with N > 0, a few at a time. Metrics: psnr, ssim and, if `distance`
    is given, lpips.
    """
    values: dict[str, list[np.ndarray]] = {}
    chosen = paddle.zeros([tokenizer.codebook_size], "int64")
    for part in _parts(images):
        originals = to_unit(part)
        codes, reconstructed = reconstruct(tokenizer, part)
        chosen += count_codes(codes, tokenizer.codebook_size)
        measured = {"psnr": psnr(originals, reconstructed), "ssim": ssim(originals, reconstructed)}
        if distance:
            measured["lpips"] = _lpips(distance, originals, reconstructed)
        for name, of_part in measured.items():
            values.setdefault(name, []).append(of_part)
    return Reconstruction({name: np.concatenate(parts) for name, parts in values.items()}, chosen)


@paddle.no_grad()
def reconstruct(tokenizer: ImageTokenizer, images: np.ndarray) -> tuple[paddle.Tensor, np.ndarray]:
    """Encode and decode images, uint8 [N, H, W, 3]. Returns (codes [N, h, w], float32 [N, 3, H, W] in [0, 1])."""
    codes, reconstructed = [], []
    for part in _parts(images):
        codes.append(tokenizer.encode(paddle.to_tensor(to_unit(part))))
        reconstructed.append(to_numpy(tokenizer.decode(codes[-1])))
    return paddle.concat(codes), np.concatenate(reconstructed)


def usage(chosen: paddle.Tensor) -> dict[str, float]:
    """Share of used codes and perplexity, from the counts `chosen` [codes]."""
    counted = CodeUsage(chosen.shape[0])
    counted.add(chosen)
    return {"codes_used": counted.used(), "perplexity": counted.perplexity()}


def _parts(images: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of images, uint8 [N, H, W, 3], that are processed together."""
    together = max(1, _PIXELS_TOGETHER // (images.shape[1] * images.shape[2]))
    return (images[start : start + together] for start in range(0, len(images), together))


@paddle.no_grad()
def _lpips(distance: lpips.LPIPS, images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """LPIPS of each pair of images [N, 3, H, W] in [0, 1]."""
    return to_numpy(distance(*(paddle.to_tensor(batch) * 2.0 - 1.0 for batch in (images, others)))).reshape(
        [len(images)]
    )
