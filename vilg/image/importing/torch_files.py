"""Reads files of `torch.save` without torch. Tensors are read when they are requested.

The zip format (torch 1.6 and later): `NAME/data.pkl` is a pickle whose persistent ids are ('storage', type, key,
device, count); `NAME/data/KEY` has the elements of a storage.

The legacy format: five pickles (a magic number, a version, facts about the machine, the object, the list of storage
keys), then for each key a count (8 bytes) and the elements. Persistent ids may end with a view, and ('module', class,
file, source) represents the class of a module. All values are little-endian in both formats.
"""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vilg.errors import UserError, os_reason
from vilg.image.importing import pickles
from vilg.image.importing.pickles import Name, PickleError, Vocabulary

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001

# Type of a storage -> dtype of its elements. numpy has no bfloat16, which is the upper half of a float32.
_TYPES = {
    f"torch.{name}Storage": code
    for name, code in {
        "Float": "f4",
        "Double": "f8",
        "Half": "f2",
        "BFloat16": "bf",
        "Long": "i8",
        "Int": "i4",
        "Short": "i2",
        "Char": "i1",
        "Byte": "u1",
        "Bool": "?",
    }.items()
}
_ZIP_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    KeyError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True)
class Storage:
    """The elements of a storage in a file. `read` returns their bytes."""

    type: str
    count: int
    read: Callable[[], bytes]

    @property
    def size(self) -> int:
        return self.count * (2 if self.type == "bf" else np.dtype(self.type).itemsize)


@dataclass(frozen=True)
class Tensor:
    """A view of a storage. Strides are in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self):
        numbers = (self.offset, *self.shape, *self.strides)
        if not (
            isinstance(self.storage, Storage)
            and all(type(number) is int and number >= 0 for number in numbers)
            and len(self.shape) == len(self.strides)
        ):
            raise TypeError("a tensor of no storage or of no shape")
        last = self.offset + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        if 0 not in self.shape and last >= self.storage.count:
            raise ValueError("a tensor that ends after the end of its storage")

    def array(self) -> np.ndarray:
        """The elements as a new fp32 array. Raises PickleError if the file ends too early."""
        data = self.storage.read()
        if len(data) != self.storage.size:
            raise PickleError(f"damaged: {len(data)} bytes where there should be {self.storage.size}")
        if self.storage.type == "bf":
            flat = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        else:
            flat = np.frombuffer(data, np.dtype(self.storage.type).newbyteorder("<"))
        strides = [stride * flat.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides).astype(np.float32)


def _vocabulary(is_known: Callable[[str], bool]) -> Vocabulary:
    built: dict[str, Callable] = {
        "collections.OrderedDict": dict,
        "builtins.set": set,
        "torch._utils._rebuild_tensor_v2": lambda storage, offset, shape, strides, *_: Tensor(
            storage, offset, shape, strides
        ),
        "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    }
    return Vocabulary(built, lambda name: name in _TYPES or is_known(name))


@contextmanager
def opened(file: Path, is_known: Callable[[str], bool]) -> Iterator[Any]:
    """The object in a file of torch.save. Its tensors can be read within the context.

    known: the classes that the file may contain besides tensors and plain data; their objects become `Record`s. Raises
    UserError for a file that is missing, damaged, of another kind, or contains other classes.
    """
    try:
        with open(file, "rb") as stream, opened_stream(stream, file, is_known) as tree:
            yield tree
    except OSError as error:
        raise UserError(f"{file}: {os_reason(error)}") from None


@contextmanager
def opened_stream(stream: BinaryIO, file: Path, is_known: Callable[[str], bool]) -> Iterator[Any]:
    """As `opened`, for a file that is open, or inside of another one. file: for messages."""
    try:
        is_zip = stream.read(4) == b"PK\3\4"
        yield (_from_zip if is_zip else _from_legacy)(stream, _vocabulary(is_known))
    except PickleError as error:
        raise UserError(f"{file}: {error}") from None


def _from_zip(stream: BinaryIO, vocabulary: Vocabulary) -> Any:
    try:
        archive = zipfile.ZipFile(stream)
    except _ZIP_FAULTS as fault:
        raise PickleError(f"damaged, or cut off: it begins as a zip file ({fault})") from None
    data_files = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(data_files) != 1:
        raise PickleError("a zip file, but not one of torch.save")
    folder = data_files[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and _entry(archive, f"{folder}byteorder") != b"little":
        raise PickleError("written on a big-endian machine")

    def storage(kind: str, key: str, count: int) -> Storage:
        return Storage(kind, count, partial(_entry, archive, f"{folder}data/{key}"))

    return pickles.read(io.BytesIO(_entry(archive, data_files[0])), vocabulary, partial(_persistent, storage))


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of an entry, verified by the checksum of the archive."""
    try:
        if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # a compressed entry could have any size
            raise PickleError(f"{name} is compressed, which torch.save never does")
        return archive.read(name)
    except _ZIP_FAULTS as fault:
        raise PickleError(f"damaged ({' '.join(str(fault).split())})") from None


def _from_legacy(stream: BinaryIO, vocabulary: Vocabulary) -> Any:
    protocol = _range(stream, 0, 1)
    stream.seek(0)
    if protocol != b"\x80" or pickles.read(stream, vocabulary) != MAGIC:
        raise PickleError("not a file of torch.save")
    version, machine = pickles.read(stream, vocabulary), pickles.read(stream, vocabulary)
    if version != VERSION or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise PickleError("written by another version of torch.save, or on a big-endian machine")
    storages: dict[str, Storage] = {}
    places: dict[str, int] = {}

    def storage(kind: str, key: str, count: int) -> Storage:
        created = Storage(kind, count, lambda: _range(stream, places[key], created.size))
        return storages.setdefault(key, created)

    tree = pickles.read(stream, vocabulary, partial(_persistent, storage))
    keys, place = pickles.read(stream, vocabulary), stream.tell()
    if not isinstance(keys, list) or sorted(storages) != sorted(map(str, keys)):
        raise PickleError("damaged: it lists other storages than it uses")
    for key in map(str, keys):
        if int.from_bytes(_range(stream, place, 8), "little") != storages[key].count:
            raise PickleError("damaged, or cut off: a storage is not where it should be")
        places[key] = place + 8
        place += 8 + storages[key].size
    if place > os.fstat(stream.fileno()).st_size:
        raise PickleError("cut off: the last elements are missing")
    return tree


def _range(stream: BinaryIO, place: int, size: int) -> bytes:
    stream.seek(place)
    return stream.read(size)


def _persistent(storage: Callable[[str, str, int], Storage], identity: tuple) -> Storage | Name:
    """The object for a persistent id. Raises ValueError or TypeError for an invalid one."""
    if identity[0] == "module":
        return identity[1]
    tag, kind, key, _, count, *view = identity
    if tag != "storage" or kind not in _TYPES or type(key) is not str or type(count) is not int or count < 0:
        raise ValueError("a storage of no type or of no size")
    if view and view[0] is not None and view[0][1] != 0:
        raise PickleError("holds a view into a storage, which torch no longer writes")
    return storage(_TYPES[kind], key, count)
