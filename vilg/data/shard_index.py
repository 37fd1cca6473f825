"""The position of each sample in a webdataset tar: computed once and stored next to the tar.

A sample is `KEY.{png,jpg,jpeg,webp}` with `KEY.json` or `KEY.txt`. The files of a key are next to each other, as
img2dataset writes them.
"""

import io
import logging
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vilg.errors import UserError, os_reason
from vilg.files import write_atomically

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp")
CAPTION_SUFFIXES = ("json", "txt")  # json first: it can have several captions
_FORMAT = 1
_BLOCK = 512


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one tar. images, captions: int64 [N, 2], offset and size; size 0 if missing."""

    shard: Path
    keys: np.ndarray
    images: np.ndarray
    captions: np.ndarray
    json: np.ndarray  # bool [N]: the caption is JSON, not plain text
    truncated: bool  # the tar has no end-of-archive mark, or its last member is cut short

    def __len__(self) -> int:
        return len(self.keys)


def open_index(shard: Path) -> ShardIndex:
    """The index of `shard`, from the file next to it if that is current, otherwise by reading all headers. Raises
    UserError.
    """
    file = shard.with_name(shard.name + ".index.npz")
    try:
        state = _state_of(shard)
        index = _read(file, shard, state)
        if index is None:
            index = build_index(shard)
            _write(file, index, state)
    except OSError as error:
        raise UserError(f"{shard}: {os_reason(error)}") from None
    return index


def build_index(shard: Path) -> ShardIndex:
    """Read the headers of `shard`. Samples after a truncation are left out."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    size = shard.stat().st_size
    truncated = False
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in _members(archive):
                if member.offset_data + member.size > size:
                    truncated = True
                    break
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if member.isfile() and stem:
                    files = samples.setdefault(f"{folder}/{stem}" if folder else stem, {})
                    files[suffix.lower()] = (member.offset_data, member.size)
            truncated = truncated or not _has_end_mark(shard, archive.offset)
    except tarfile.TarError as error:
        raise UserError(f"{shard}: not a readable tar ({error})") from None
    return _index(shard, samples, truncated)


def _members(archive: tarfile.TarFile):
    """All members before the first header that cannot be read."""
    while True:
        try:
            member = archive.next()
        except tarfile.ReadError:  # truncated within a member
            return
        if member is None:
            return
        yield member


def _has_end_mark(shard: Path, offset: int) -> bool:
    """Whether the two zero blocks at the end of the tar exist at `offset`. Otherwise the file is truncated."""
    with open(shard, "rb") as file:
        file.seek(offset)
        return file.read(_BLOCK) == bytes(_BLOCK)


def _index(shard: Path, samples: dict, truncated: bool) -> ShardIndex:
    def first(files, suffixes):
        return next((files[suffix] for suffix in suffixes if suffix in files), (0, 0))

    return ShardIndex(
        shard,
        np.array(list(samples), dtype=str),
        np.array([first(files, IMAGE_SUFFIXES) for files in samples.values()], dtype=np.int64).reshape(-1, 2),
        np.array([first(files, CAPTION_SUFFIXES) for files in samples.values()], dtype=np.int64).reshape(-1, 2),
        np.array(["json" in files for files in samples.values()], dtype=bool),
        truncated,
    )


def _state_of(shard: Path) -> np.ndarray:
    stat = shard.stat()
    return np.array([_FORMAT, stat.st_size, stat.st_mtime_ns], dtype=np.int64)


def _read(file: Path, shard: Path, state: np.ndarray) -> ShardIndex | None:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if not np.array_equal(arrays["state"], state):
                return None
            fields = {name: arrays[name] for name in ("keys", "images", "captions", "json")}
            return ShardIndex(shard, **fields, truncated=bool(arrays["truncated"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # missing, or not an index, or incomplete
        return None


def _write(path: Path, index: ShardIndex, state: np.ndarray) -> None:
    """Store the index next to the tar. If the folder is not writable, the headers will be read again next time."""
    data = io.BytesIO()
    np.savez(
        data,
        state=state,
        keys=index.keys,
        images=index.images,
        captions=index.captions,
        json=index.json,
        truncated=index.truncated,
    )
    try:
        write_atomically(path, data.getvalue())  # several ranks may write the same file at once
    except (OSError, UserError) as error:
        log.warning("the index cannot be stored (%s)", error)
