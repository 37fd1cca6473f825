"""Features of image sets, shared among ranks and cached."""

import hashlib
from pathlib import Path

import numpy as np
import paddle

from vilg.arrays import to_numpy
from vilg.distributed.world import World
from vilg.evaluation.feature_files import read_features, write_features
from vilg.evaluation.fid import weights
from vilg.evaluation.fid.image_sets import ImageSet
from vilg.evaluation.fid.inception import FEATURES
from vilg.evaluation.fid.protocols import PROTOCOLS
from vilg.progress import Progress

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
    key, file, stored = "", None, None
    if cache is not None:
        with world.fail_together():  # hashing reads all images, which one rank does for all
            if world.is_rank_zero:
                key = _key(images, extract)
                file = cache / f"{key}.npz"
                stored = read_features(file, key)
        stored = world.gather(stored)[0]
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
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_features(file, key, whole)
    return whole


def _key(images: ImageSet, extract: FeatureExtractor) -> str:
    digest = hashlib.sha256(f"{extract.name} {extract.weights_hash} {images.count}".encode())
    for number in range(images.count):
        pixels = images.read(number)
        digest.update(str(pixels.shape).encode() + pixels.tobytes())
    return digest.hexdigest()[:32]
