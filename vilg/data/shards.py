"""Random access to the samples of webdataset tars."""

import glob
import hashlib
import os
import weakref
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vilg.data.bad_samples import BadSampleError, BadSamples
from vilg.data.shard_index import ShardIndex, open_index
from vilg.errors import UserError


@dataclass(frozen=True)
class Record:
    """One sample as stored in the tar."""

    name: str  # shard:key, for messages
    image: bytes
    caption: bytes
    caption_is_json: bool


class Shards:
    """All samples of `paths` that have an image and, if `captions` is set, a caption.

    Other samples and truncated tars count as bad samples. Data is read by `os.pread`, so that threads need no lock.
    """

    def __init__(self, paths: list[Path], bad_samples: BadSamples, captions: bool = True):
        if not paths:
            raise UserError("data.shards: no shard given")
        self.indices = [open_index(path) for path in paths]
        usable = [self._usable(index, bad_samples, captions) for index in self.indices]
        self._shard = np.repeat(np.arange(len(paths)), [len(rows) for rows in usable])
        self._row = np.concatenate(usable)
        if not len(self._row):
            raise UserError(f"{paths[0]}: no usable sample in {len(paths)} shards")
        self._descriptors: list[int] = []
        weakref.finalize(self, _close, self._descriptors)  # also closes the first ones if a later one fails
        self._descriptors += (os.open(path, os.O_RDONLY) for path in paths)

    @staticmethod
    def _usable(index: ShardIndex, bad_samples: BadSamples, captions: bool) -> np.ndarray:
        if index.truncated:
            bad_samples.add(str(index.shard), "the tar is truncated")
        with_image, with_caption = index.images[:, 1] > 0, index.captions[:, 1] > 0
        for row in np.flatnonzero(~with_image):
            bad_samples.add(f"{index.shard}:{index.keys[row]}", "no image")
        if not captions:
            return np.flatnonzero(with_image)
        for row in np.flatnonzero(with_image & ~with_caption):
            bad_samples.add(f"{index.shard}:{index.keys[row]}", "no caption")
        return np.flatnonzero(with_image & with_caption)

    def __len__(self) -> int:
        return len(self._row)

    def name(self, number: int) -> str:
        """SHARD:KEY, for messages."""
        index = self.indices[self._shard[number]]
        return f"{index.shard}:{index.keys[self._row[number]]}"

    def __getitem__(self, number: int) -> Record:
        shard, row = self._shard[number], self._row[number]
        return replace(self.caption(number), image=self._read(shard, *self.indices[shard].images[row]))

    def caption(self, number: int) -> Record:
        """The record without its image, which is not read."""
        shard, row = self._shard[number], self._row[number]
        index = self.indices[shard]
        return Record(self.name(number), b"", self._read(shard, *index.captions[row]), bool(index.json[row]))

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptors[shard], int(size), int(offset))
        if len(data) != size:
            raise BadSampleError("the tar ended early")
        return data


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def fingerprint(patterns: list[str]) -> dict:
    """{"shards": count, "sha256": ..}: a hash of shard names and of the position of each sample, independent of the
    folder.
    """
    paths, digest = expand(patterns), hashlib.sha256()
    for path in paths:
        index = open_index(path)
        digest.update("\n".join([path.name, *index.keys]).encode())
        digest.update(np.ascontiguousarray(index.images).tobytes() + np.ascontiguousarray(index.captions).tobytes())
    return {"shards": len(paths), "sha256": digest.hexdigest()}


def expand(patterns: list[str], what: str = "shard") -> list[Path]:
    """The paths that `patterns` (paths and globs) match, in this order, each glob sorted. Raises UserError if one
    matches nothing.
    """
    paths: list[Path] = []
    for pattern in patterns:
        matches = sorted(glob.glob(pattern))
        if not matches:
            raise UserError(f"{pattern}: no such {what}")
        paths += map(Path, matches)
    return paths
