"""Reading a checkpoint: all of it or nothing."""

import logging
from pathlib import Path

import numpy as np
from safetensors import safe_open

from vilg.checkpoint.format import CheckpointError, Manifest, Tensor, checkpoints_in, hash_file, read_manifest

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


def read(checkpoint: Path) -> tuple[Manifest, dict[str, np.ndarray]]:
    """Everything in a checkpoint that `verify` or `choose` has found whole, on any number of ranks."""
    manifest = read_manifest(checkpoint)
    opened = {name: safe_open(checkpoint / name, framework="numpy") for name in manifest.files}
    return manifest, {name: _assemble(name, tensor, opened) for name, tensor in manifest.tensors.items()}


def load(checkpoint: Path) -> tuple[Manifest, dict[str, np.ndarray]]:
    """`verify`, then `read`. Raises CheckpointError and gives nothing in part."""
    verify(checkpoint)
    return read(checkpoint)


def _assemble(name: str, tensor: Tensor, opened: dict) -> np.ndarray:
    flat = np.empty(int(np.prod(tensor.shape, dtype=np.int64)), dtype=tensor.dtype)
    for part in tensor.slices:
        flat[part.start : part.stop] = opened[part.file].get_tensor(name)
    return flat.reshape(tensor.shape)


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
