"""Reading a checkpoint: all of it or nothing."""

import logging
from pathlib import Path

import numpy as np
from safetensors import safe_open

from vilg.checkpoint.format import CheckpointError, Manifest, checkpoints_in, hash_file, read_manifest

log = logging.getLogger(__name__)


def verify(checkpoint: Path) -> Manifest:
    """The manifest, once every file has the size and the hash that it names. Raises CheckpointError."""
    manifest = read_manifest(checkpoint)
    for name, expected in manifest.files.items():
        file = checkpoint / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing")
        if file.stat().st_size != expected.size:
            raise CheckpointError(f"{file}: {file.stat().st_size} bytes, {expected.size} were written")
        if hash_file(file) != expected.sha256:
            raise CheckpointError(f"{file}: damaged, its hash is not the one that was written")
    return manifest


class Reader:
    """The numbers of a checkpoint that `verify` or `choose` has found whole, range by range, on any number of ranks."""

    def __init__(self, checkpoint: Path):
        self.checkpoint, self.manifest = checkpoint, read_manifest(checkpoint)
        self._opened = {name: safe_open(checkpoint / name, framework="numpy") for name in self.manifest.files}

    @property
    def shapes(self) -> dict[str, list[int]]:
        return {name: tensor.shape for name, tensor in self.manifest.tensors.items()}

    def range(self, name: str, start: int, stop: int) -> np.ndarray:
        """Elements [start, stop) of the flattened tensor; only they are read. CheckpointError if any is nowhere."""
        tensor = self.manifest.tensors[name]
        values, place = np.empty(stop - start, dtype=tensor.dtype), start
        for part in tensor.slices:
            first, last = max(place, part.start), min(stop, part.stop)
            if first == place and first < last:
                stored = self._opened[part.file].get_slice(name)
                values[first - start : last - start] = stored[first - part.start : last - part.start]
                place = last
        if place < stop:
            raise CheckpointError(f"{self.checkpoint}: {name} lacks its elements from {place} on")
        return values

    def tensor(self, name: str) -> np.ndarray:
        shape = self.manifest.tensors[name].shape
        return self.range(name, 0, int(np.prod(shape, dtype=np.int64))).reshape(shape)


def read(checkpoint: Path) -> tuple[Manifest, dict[str, np.ndarray]]:
    """Everything in a checkpoint that `verify` or `choose` has found whole."""
    reader = Reader(checkpoint)
    return reader.manifest, {name: reader.tensor(name) for name in reader.shapes}


def load(checkpoint: Path) -> tuple[Manifest, dict[str, np.ndarray]]:
    """`verify`, then `read`. Raises CheckpointError and gives nothing in part."""
    verify(checkpoint)
    return read(checkpoint)


def newest_valid(folder: Path) -> Path | None:
    """The newest checkpoint that can be trusted, None if there is none at all.

    Newer ones that cannot be trusted are named in the log; if none can, that is a CheckpointError.
    """
    found = checkpoints_in(folder)
    for checkpoint in reversed(found):
        try:
            verify(checkpoint)
            return checkpoint
        except CheckpointError as error:
            log.warning("passed over %s", error)
    if found:
        raise CheckpointError(f"{folder}: none of its {len(found)} checkpoints can be read")
    return None


def choose(resume: str, folder: Path) -> Path | None:
    """The verified checkpoint that the setting `resume` asks for: none | auto | PATH. A PATH never falls back."""
    if resume == "none":
        return None
    if resume == "auto":
        return newest_valid(folder)
    verify(Path(resume))
    return Path(resume)
