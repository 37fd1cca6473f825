"""Reads and writes checkpoint files, on local file systems and through fsspec.

A storage is a folder of checkpoints. Names of folders are relative to it, files are named FOLDER/FILE. All errors are
OSErrors.
"""

import errno
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from vilg.errors import UserError

Location = str | Path  # a local path, or a URL that fsspec knows: s3://bucket/runs/x
Buffer = bytes | memoryview


class WritableFile(Protocol):
    def write(self, data: Buffer) -> None: ...


class Storage(Protocol):
    def folders(self) -> list[str]:
        """The names of all folders, including hidden ones, in any order."""

    def begin(self, name: str) -> str:
        """Create an empty folder for writing the checkpoint `name`, and return its name. Unfinished folders of earlier
        saves are removed.
        """

    def create(self, file: str) -> AbstractContextManager[WritableFile]:
        """Open a new file for writing. Its content has reached the disk when the context ends."""

    def publish(self, unfinished: str, name: str) -> None:
        """Rename the folder that `begin` created to `name`. An older checkpoint of that name is replaced."""

    def remove(self, folder: str) -> None:
        """Remove a folder and its content, if it exists."""

    def size(self, file: str) -> int:
        """Size in bytes. Raises FileNotFoundError."""

    def time(self, file: str) -> float:
        """Modification time in seconds since 1970."""

    def read(self, file: str, start: int, stop: int) -> Buffer:
        """Bytes [start, stop) of a file."""

    def map(self, file: str, start: int, stop: int) -> Buffer:
        """Bytes [start, stop) of a file, without a copy where the storage supports it.

        Use it only for a file that has been read before: errors of the disk are not reported as OSError.
        """


class LocalStorage:
    """A folder on this machine, or on a file system that all nodes mount.

    A checkpoint is written under a hidden name and renamed after all of it has reached the disk.
    """

    def __init__(self, root: Path):
        self.root = root
        self._maps: dict[str, mmap.mmap] = {}

    def folders(self) -> list[str]:
        return [path.name for path in self.root.iterdir()] if self.root.is_dir() else []

    def begin(self, name: str) -> str:
        for leftover in self.root.glob(".step-*"):
            name_of = leftover.name[1:].partition(".")[0]
            if leftover.name.endswith(".replaced") and not (self.root / name_of).exists():
                os.rename(leftover, self.root / name_of)  # the process was killed between two renames
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
    """A folder that fsspec can access, such as an object store.

    Nothing is renamed: a checkpoint is written under its final name and is valid once its manifest, which is written
    last, exists.
    """

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
            paths = self._files.ls(self._root, detail=False, refresh=True)
        return [path.rstrip("/").rsplit("/", 1)[-1] for path in paths]

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


def location(path: Location) -> Location:
    """A URL as a string, anything else (also file://) as a path."""
    if isinstance(path, str) and "://" in path and not path.startswith("file://"):
        return path.rstrip("/")
    return Path(str(path).removeprefix("file://"))


def open_storage(folder: Location) -> Storage:
    place = location(folder)
    return RemoteStorage(place) if isinstance(place, str) else LocalStorage(place)


def split_location(checkpoint: Location) -> tuple[Storage, str]:
    """The storage that contains a checkpoint, and the name of the checkpoint in it."""
    place = location(checkpoint)
    if isinstance(place, str):
        folder, _, name = place.rpartition("/")
        return RemoteStorage(folder), name
    return LocalStorage(place.parent), place.name


def same_location(one: Location, other: Location) -> bool:
    """Whether two locations are the same. Paths may be relative or contain links."""
    first, second = location(one), location(other)
    return first == second or (
        isinstance(first, Path) and isinstance(second, Path) and first.resolve() == second.resolve()
    )


def join(folder: Location, name: str) -> Location:
    place = location(folder)
    return f"{place}/{name}" if isinstance(place, str) else place / name


@contextmanager
def _as_os_error(what: str) -> Iterator[None]:
    """Convert exceptions of fsspec implementations to OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{what}: {type(error).__name__}: {error}") from error


class _FullWrites:
    """Repeats writes of an unbuffered file, which may write less than requested."""

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
