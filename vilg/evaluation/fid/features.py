"""Features of image sets, shared among ranks and cached."""

import hashlib
import io
import logging
import zipfile
from pathlib import Path

import numpy as np
import paddle

from vilg.arrays import to_numpy
from vilg.distributed.world import World
from vilg.evaluation.fid import weights
from vilg.evaluation.fid.image_sets import ImageSet
from vilg.evaluation.fid.inception import FEATURES
from vilg.evaluation.fid.protocols import PROTOCOLS
from vilg.files import write_atomically
from vilg.progress import Progress

log = logging.getLogger(__name__)

_AT_ONCE = 16  # images


class FeatureExtractor:
    """Inception with the preprocessing of a protocol. `weights_hash`: SHA-256 of the file of weights."""

    def __init__(self, protocol: str, file: Path):
        self.name, self._protocol = protocol, PROTOCOLS[protocol]
        self._network, self.weights_hash = weights.load(file, self._protocol.version)

    @paddle.no_grad()
    def __call__(self, pixels: list[np.ndarray]) -> np.ndarray:
        """Images uint8 [H, W, 3] of any sizes -> float32 [N, 2048]."""
        batch = self._protocol.scale(np.stack([self._protocol.resize(image) for image in pixels]))
        inputs = np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32)
        return to_numpy(self._network(paddle.to_tensor(inputs)))


def features(images: ImageSet, extract: FeatureExtractor, world: World, cache: Path | None = None) -> np.ndarray:
    """The features of all images, float32 [count, 2048], on all ranks, which share the work. All ranks call this.

    cache: a folder with features under a hash of the images, the protocol and the weights. Raises UserError on all
    ranks for a broken image.
    """
    file = None
    if cache is not None:
        with world.fail_together():
            file = cache / f"{_key(images, extract)}.npz"
        stored = world.gather(_read(file))[0]
        if stored is not None:
            return stored
    own = list(range(world.rank, images.count, world.ranks))
    parts = [np.empty([0, FEATURES], np.float32)]
    with (
        world.fail_together(),
        Progress(images.name, images.count, quiet=not world.is_rank_zero) as progress,
    ):
        for first in range(0, len(own), _AT_ONCE):
            part = own[first : first + _AT_ONCE]
            parts.append(extract([images.read(number) for number in part]))
            progress.advance(min(len(part) * world.ranks, images.count - progress.done))
    whole = np.empty([images.count, FEATURES], np.float32)
    for rank, of_rank in enumerate(world.gather(np.concatenate(parts))):
        whole[rank :: world.ranks] = of_rank
    if file is not None and world.is_rank_zero:
        _write(file, whole)
    return whole


def _key(images: ImageSet, extract: FeatureExtractor) -> str:
    digest = hashlib.sha256(f"{extract.name} {extract.weights_hash} {images.count}".encode())
    for number in range(images.count):
        pixels = images.read(number)
        digest.update(str(pixels.shape).encode() + pixels.tobytes())
    return digest.hexdigest()[:32]


def _read(file: Path) -> np.ndarray | None:
    try:
        with np.load(file) as stored:
            return stored["features"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        log.warning("%s: not a file of features; it is written again", file)
        return None


def _write(file: Path, whole: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, features=whole)
    write_atomically(file, buffer.getvalue())
