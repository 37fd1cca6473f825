"""Writes safetensors files as a stream and reads ranges of them.

The safetensors library writes a file at once from memory and reads local files only. This module hashes while it
writes, and works on any `Storage`. The format is a length (8 bytes, little-endian), a JSON header, and the values;
tests read these files with the library.
"""

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from vilg.checkpoint.format import BLOCK, CheckpointError, File
from vilg.checkpoint.storage import Buffer, Storage

_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "uint16": "U16",
    "uint8": "U8",
    "int8": "I8",
    "bool": "BOOL",
}
_NUMPY = {code: np.dtype(name) for name, code in _DTYPES.items()}
_AHEAD = 4  # pieces that may be written but not yet hashed


@dataclass(frozen=True)
class TensorChunk:
    """A named array to be written. `read` returns its elements and is called once, when they are written."""

    name: str
    dtype: str
    shape: list[int]
    read: Callable[[], np.ndarray]


def write(storage: Storage, file: str, contents: list[TensorChunk]) -> File:
    """Write `contents` to `file` and return its size and hashes. Another thread hashes in parallel.

    Only a few blocks are in memory at a time. Raises OSError if the storage fails.
    """
    digest = _Digest()
    try:
        with storage.create(file) as opened:
            for piece in _pieces(contents):
                digest.add(piece)
                opened.write(piece)
    finally:
        result = digest.end()
    return result


def _pieces(contents: list[TensorChunk]) -> Iterator[Buffer]:
    """The bytes of the file, divided at block boundaries."""
    place = 0
    for data in _data(contents):
        while len(data):
            length = min(len(data), BLOCK - place % BLOCK)
            yield data[:length]
            data, place = data[length:], place + length


def _data(contents: list[TensorChunk]) -> Iterator[memoryview]:
    header, place = {}, 0
    for content in contents:
        size = prod(content.shape) * np.dtype(content.dtype).itemsize
        header[content.name] = {
            "dtype": _DTYPES[content.dtype],
            "shape": content.shape,
            "data_offsets": [place, place + size],
        }
        place += size
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for content in contents:
        array = np.ascontiguousarray(content.read()).reshape(-1)
        assert array.dtype == content.dtype and array.size == prod(content.shape), content.name
        if array.size:
            yield array.data.cast("B")


class _Digest:
    """SHA-256 in a separate thread, with the digests of all prefixes of the file that end at a block boundary.

    The first prefix whose digest differs identifies the damaged block.
    """

    def __init__(self):
        self._hash, self._size, self._prefixes = hashlib.sha256(), 0, []
        self._queue: queue.Queue = queue.Queue(_AHEAD)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, piece: Buffer) -> None:
        self._queue.put(piece)

    def end(self) -> File:
        self._queue.put(None)
        self._thread.join()
        return File(self._size, self._hash.hexdigest(), self._prefixes)

    def _run(self) -> None:  # cannot fail
        while (piece := self._queue.get()) is not None:
            self._hash.update(piece)
            self._size += len(piece)
            if self._size % BLOCK == 0:
                self._prefixes.append(self._hash.copy().hexdigest()[:16])


def verify_file(storage: Storage, file: str, expected: File) -> None:
    """Raise CheckpointError unless the file has the expected size and hash. The message gives the damaged byte
    range.
    """
    size = storage.size(file)
    if size != expected.size:
        raise CheckpointError(f"{file}: {size} bytes, {expected.size} were written")
    digest, place = hashlib.sha256(), 0
    for number in range(-(-size // BLOCK)):
        stop = min(place + BLOCK, size)
        digest.update(storage.read(file, place, stop))
        whole = stop - place == BLOCK
        if (whole and digest.hexdigest()[:16] != expected.prefixes[number]) or (
            stop == size and digest.hexdigest() != expected.sha256
        ):
            raise CheckpointError(f"{file}: damaged between bytes {place} and {stop}, the hash does not match")
        place = stop


class SliceReader:
    """Reads elements of the slices in one file."""

    def __init__(self, storage: Storage, file: str):
        self._storage, self._file = storage, file
        length = int.from_bytes(storage.map(file, 0, 8), "little")
        self._first = 8 + length
        self._header = json.loads(bytes(storage.map(file, 8, self._first)))

    def elements(self, name: str, start: int, stop: int) -> np.ndarray:
        """Elements [start, stop) of a slice, as a read-only array."""
        entry = self._header[name]
        dtype, begin = _NUMPY[entry["dtype"]], self._first + entry["data_offsets"][0]
        data = self._storage.map(self._file, begin + start * dtype.itemsize, begin + stop * dtype.itemsize)
        return np.frombuffer(data, dtype)
