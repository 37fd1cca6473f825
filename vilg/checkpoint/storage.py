"""Location checkpoints lie. Everything that is written or read goes through this one small interface.

A storage is a folder of checkpoints; names are those of folders in it, `FOLDER/FILE` those of files. Whatever goes
wrong is an OSError.
"""

import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from vilg.errors import UserError

Location = str | Path  # a local path, or a URL that fsspec knows: s3://bucket/runs/x
Buffer = bytes | memoryview


class WritableFile(Protocol):
    def write(self, data: Buffer) -> None: ...


class Storage(Protocol):
    def folders(self) -> list[str]:
        """The names of all folders, hidden ones too, in no order."""

    def begin(self, name: str) -> str:
        """An empty folder in which the checkpoint `name` is written; what others have unfinished and not published goes."""

    def create(self, file: str) -> "contextmanager[WritableFile]":
        """A new file, which has reached the disk behind the block."""

    def publish(self, unfinished: str, name: str) -> None:
        """Give what `begin` gave its name. One of that name, left by a run that was resumed further back, goes."""

    def remove(self, folder: str) -> None:
        """Remove a folder with all that is in it; it may be none."""

    def size(self, file: str) -> int:
        """Bytes; FileNotFoundError."""

    def time(self, file: str) -> float:
        """When it was written, in seconds since 1970."""

    def read(self, file: str, start: int, stop: int) -> Buffer:
        """Bytes [start, stop) of a file."""

    def map(self, file: str, start: int, stop: int) -> Buffer:
        """The same, without a copy where the storage can; only of a file that has been read, for what the disk fails to
        give is no OSError here."""


class LocalStorage:
    """A folder of this machine, or of a file system that all nodes mount. A checkpoint is written under a hidden name,
    and renamed once everything in it has reached the disk."""

    def __init__(self, root: Path):
        self.root = root
        self._maps: dict[str, mmap.mmap] = {}

    def folders(self) -> list[str]:
        return [path.name for path in self.root.iterdir()] if self.root.is_dir() else []

    def begin(self, name: str) -> str:
        for leftover in self.root.glob(".step-*"):
            name_of = leftover.name[1:].partition(".")[0]
            if leftover.name.endswith(".replaced") and not (self.root / name_of).exists():
                os.rename(leftover, self.root / name_of)  # a kill came between two renames
            else:
                shutil.rmtree(leftover)
        unfinished = f".{name}.writing"
        (self.root / unfinished).mkdir(parents=True)
        return unfinished

    @contextmanager
    def create(self, file: str) -> Iterator[WritableFile]:
        with open(self.root / file, "wb", buffering=0) as opened:
            yield _FullWrites(opened)
            os.fsync(opened.fileno())

    def publish(self, unfinished: str, name: str) -> None:
        _fsync_folder(self.root / unfinished)
        target, replaced = self.root / name, self.root / f".{name}.replaced"
        if target.exists():
            os.rename(target, replaced)
        try:
            os.rename(self.root / unfinished, target)
        except OSError:
            if replaced.exists():
                os.rename(replaced, target)
            raise
        _fsync_folder(self.root)
        shutil.rmtree(replaced, ignore_errors=True)

    def remove(self, folder: str) -> None:
        if (self.root / folder).exists():
            shutil.rmtree(self.root / folder)

    def size(self, file: str) -> int:
        return (self.root / file).stat().st_size

    def time(self, file: str) -> float:
        return (self.root / file).stat().st_mtime

    def read(self, file: str, start: int, stop: int) -> Buffer:
        with open(self.root / file, "rb", buffering=0) as opened:
            parts, place = [], start
            while place < stop and (part := os.pread(opened.fileno(), stop - place, place)):
                parts.append(part)
                place += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def map(self, file: str, start: int, stop: int) -> Buffer:
        if file not in self._maps:
            with open(self.root / file, "rb") as opened:
                self._maps[file] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(self._maps[file])[start:stop]


class RemoteStorage:
    """A folder that fsspec reaches, such as an object store. Nothing there is renamed: a checkpoint grows under its own
    name, and is none until its manifest is there, which is written last."""

    def __init__(self, url: str):
        try:
            import fsspec
        except ImportError:
            raise UserError(f"{url}: URLs need fsspec: pip install 'vilg[storage]'") from None
        with _as_os_error(url):
            self._files, self._root = fsspec.core.url_to_fs(url)

    def folders(self) -> list[str]:
        with _as_os_error(self._root):
            if not self._files.isdir(self._root):
                return []
            found = self._files.ls(self._root, detail=False, refresh=True)
        return [path.rstrip("/").rsplit("/", 1)[-1] for path in found]

    def begin(self, name: str) -> str:
        self.remove(name)
        with _as_os_error(name):
            self._files.makedirs(self._path(name), exist_ok=True)
        return name

    @contextmanager
    def create(self, file: str) -> Iterator[WritableFile]:
        with _as_os_error(file), self._files.open(self._path(file), "wb") as opened:
            yield opened

    def publish(self, unfinished: str, name: str) -> None:
        pass

    def remove(self, folder: str) -> None:
        with _as_os_error(folder):
            if self._files.exists(self._path(folder)):
                self._files.rm(self._path(folder), recursive=True)

    def size(self, file: str) -> int:
        with _as_os_error(file):
            return self._files.size(self._path(file))

    def time(self, file: str) -> float:
        with _as_os_error(file):
            return self._files.modified(self._path(file)).timestamp()

    def read(self, file: str, start: int, stop: int) -> Buffer:
        with _as_os_error(file):
            return self._files.cat_file(self._path(file), start=start, end=stop)

    map = read

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def location(given: Location) -> Location:
    """A URL, or else a path; file:// is a path."""
    if isinstance(given, str) and "://" in given and not given.startswith("file://"):
        return given.rstrip("/")
    return Path(str(given).removeprefix("file://"))


def open_storage(folder: Location) -> Storage:
    place = location(folder)
    return RemoteStorage(place) if isinstance(place, str) else LocalStorage(place)


def split_location(checkpoint: Location) -> tuple[Storage, str]:
    """The storage that a checkpoint lies in, and its name there."""
    place = location(checkpoint)
    if isinstance(place, str):
        folder, _, name = place.rpartition("/")
        return RemoteStorage(folder), name
    return LocalStorage(place.parent), place.name


def join(folder: Location, name: str) -> Location:
    place = location(folder)
    return f"{place}/{name}" if isinstance(place, str) else place / name


@contextmanager
def _as_os_error(what: str) -> Iterator[None]:
    """Each store has exceptions of its own."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{what}: {type(error).__name__}: {error}") from error


class _FullWrites:
    """An unbuffered file may write less than it is given."""

    def __init__(self, file):
        self._file = file

    def write(self, data: Buffer) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
