"""The held-out pairs of pre-training. The ranks divide the images to encode, and the run's folder keeps the codes.

Encoding takes one pass of the image tokenizer over the held-out images, which would otherwise be repeated by every rank
and at every restart.
"""

import hashlib
import io
import json
import logging
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from vilg import config
from vilg.arrays import to_numpy
from vilg.data import shards
from vilg.data.heldout import HeldoutSamples, no_usable_image
from vilg.data.images import to_unit
from vilg.data.loader import EncodeCaption
from vilg.distributed.world import World
from vilg.errors import UserError
from vilg.evaluation.likelihood import Pair
from vilg.files import write_atomically
from vilg.image.tokenizer import ImageTokenizer
from vilg.progress import Progress

log = logging.getLogger(__name__)

CODES_FILE = "heldout-codes.npz"  # in the folder of the run
_FORMAT = 1
_IMAGES_AT_ONCE = 32  # images that one rank encodes together; does not depend on the number of ranks


@dataclass(frozen=True)
class EncodedImages:
    """Held-out images as codes: positions int64 [N] ascending, codes int64 [N, n], names and all captions of each."""

    positions: np.ndarray
    codes: np.ndarray
    names: list[str]
    captions: list[list[str]]

    def part(self, rank: int, ranks: int) -> "EncodedImages":
        """The images that `rank` encodes."""
        own = np.flatnonzero(_rank_of(self.positions, ranks) == rank)
        return self._take(own)

    def _take(self, rows: np.ndarray) -> "EncodedImages":
        return EncodedImages(
            self.positions[rows],
            self.codes[rows],
            [self.names[row] for row in rows],
            [self.captions[row] for row in rows],
        )

    @staticmethod
    def join(parts: list["EncodedImages"]) -> "EncodedImages":
        """The images of all `parts` in the order of their positions. Raises UserError if there is none."""
        parts = [part for part in parts if len(part.positions)]
        if not parts:
            raise no_usable_image()
        joined = EncodedImages(
            np.concatenate([part.positions for part in parts]),
            np.concatenate([part.codes for part in parts]),
            [name for part in parts for name in part.names],
            [captions for part in parts for captions in part.captions],
        )
        return joined._take(np.argsort(joined.positions))


def read_heldout_pairs(
    settings: config.Data,
    encode: EncodeCaption,
    image_tokenizer: ImageTokenizer,
    tokenizer_fingerprint: str,
    folder: Path,
    world: World,
) -> list[Pair]:
    """One pair for each caption of each held-out image, equal on all ranks, which call this together.

    folder: holds the file of codes, which is used if it was made by this tokenizer from these shards. Raises UserError
    on all ranks if one cannot read its images.
    """
    with world.fail_together():
        file, key = folder / CODES_FILE, _key(settings, tokenizer_fingerprint)
        stored = _read(file, key)
        own = stored.part(world.rank, world.ranks) if stored else _encode(settings, image_tokenizer, world)
    images = EncodedImages.join(world.gather(own))
    if stored is None and world.is_rank_zero:
        _write(file, key, images)
    return [
        Pair(name, caption, encode(caption), codes)
        for name, captions, codes in zip(images.names, images.captions, images.codes)
        for caption in captions
    ]


@paddle.no_grad()
def _encode(settings: config.Data, image_tokenizer: ImageTokenizer, world: World) -> EncodedImages:
    """The images of this rank, encoded in groups of adjacent positions."""
    samples = HeldoutSamples(settings)
    positions = np.arange(len(samples))
    own = positions[_rank_of(positions, world.ranks) == world.rank]
    grid = image_tokenizer.grid(settings.image_size)
    kept, codes = [], [np.empty([0, grid[0] * grid[1]], np.int64)]
    with Progress("held-out images of rank 0", len(own), quiet=not world.is_rank_zero) as progress:
        for start in range(0, len(own), _IMAGES_AT_ONCE):
            group = list(samples.read(own[start : start + _IMAGES_AT_ONCE]))
            if group:
                images = to_unit(np.stack([sample.image for _, sample, _ in group]))
                codes.append(to_numpy(image_tokenizer.encode(paddle.to_tensor(images)).flatten(1)))
                kept += [(position, sample.name, captions) for position, sample, captions in group]
            progress.advance(len(own[start : start + _IMAGES_AT_ONCE]))
    return EncodedImages(
        np.array([position for position, _, _ in kept], np.int64),
        np.concatenate(codes),
        [name for _, name, _ in kept],
        [captions for _, _, captions in kept],
    )


def _rank_of(positions: np.ndarray, ranks: int) -> np.ndarray:
    """The rank that encodes each position: groups of adjacent positions, in turn."""
    return positions // _IMAGES_AT_ONCE % ranks


def _key(settings: config.Data, tokenizer_fingerprint: str) -> str:
    """SHA-256 of everything that the codes depend on."""
    state = {
        "format": _FORMAT,
        "image_tokenizer": tokenizer_fingerprint,
        "shards": shards.fingerprint(settings.heldout) if settings.heldout else None,
        "modified": [path.stat().st_mtime_ns for path in shards.expand(settings.heldout)],
        "image_size": settings.image_size,
        "max_heldout_images": settings.max_heldout_images,
    }
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _read(file: Path, key: str) -> EncodedImages | None:
    """The stored codes; None if there are none, or they are damaged or were made from something else."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if str(arrays["key"]) != key:
                log.info(
                    "%s: made from other data or by another tokenizer; the held-out images are encoded again", file
                )
                return None
            texts = json.loads(arrays["texts"].tobytes())
            return EncodedImages(
                arrays["positions"], arrays["codes"].astype(np.int64), texts["names"], texts["captions"]
            )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s: damaged (%s); the held-out images are encoded again", file, error)
        return None


def _write(file: Path, key: str, images: EncodedImages) -> None:
    """Store the codes. If that is impossible, they will be computed again next time."""
    data = io.BytesIO()
    texts = json.dumps({"names": images.names, "captions": images.captions}).encode()
    np.savez(
        data,
        key=key,
        positions=images.positions,
        codes=images.codes.astype(np.int32),
        texts=np.frombuffer(texts, np.uint8),
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, data.getvalue())
    except (OSError, UserError) as error:
        log.warning("the codes of the held-out images cannot be stored (%s)", error)
