"""The images of a folder or of shards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vilg.data.bad_samples import BadSampleError, BadSamples
from vilg.data.decode import decode_image, read_image
from vilg.data.shards import Shards, expand
from vilg.errors import UserError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class ImageSet:
    """count images. read(i) returns image i, uint8 [H, W, 3]; it raises UserError for a broken one."""

    name: str
    count: int
    read: Callable[[int], np.ndarray]


def open_images(place: str) -> ImageSet:
    """place: a folder, also with images in its subfolders, or the path or glob of tar shards. Raises UserError."""
    folder = Path(place)
    if folder.is_dir():
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)
        if files:
            return ImageSet(place, len(files), lambda number: np.asarray(read_image(files[number])))
        if not any(folder.glob("*.tar")):
            raise UserError(f"{place}: no image and no shard in this folder")
        return _of_shards(place, [str(folder / "*.tar")])
    return _of_shards(place, [place])


def _of_shards(place: str, patterns: Sequence[str]) -> ImageSet:
    shards = Shards(expand(list(patterns), "image or shard"), BadSamples(0), captions=False)

    def read(number: int) -> np.ndarray:
        try:
            return np.asarray(decode_image(shards[number]))
        except BadSampleError as error:
            raise UserError(f"{shards.name(number)}: {error}") from None

    return ImageSet(place, len(shards), read)
