"""Combines the files of all ranks into a checkpoint, and removes old checkpoints."""

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod

import numpy as np

from vilg import config
from vilg.checkpoint.format import (
    MANIFEST,
    VERSION,
    CheckpointError,
    File,
    Manifest,
    Slice,
    Tensor,
    checkpoints_in,
    find_incomplete,
    read_manifest,
    step_directory,
    step_of,
)
from vilg.checkpoint.slices import TensorChunk
from vilg.checkpoint.storage import Location, Storage, split_location
from vilg.distributed.states import TensorShard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointInfo:
    """The fields of a manifest that the training loop provides; see `Manifest`."""

    step: int
    consumed_samples: int
    settings: dict
    tokenizers: dict[str, str] = field(default_factory=dict)
    data: dict = field(default_factory=dict)
    loss_scale: dict = field(default_factory=dict)
    spikes: dict = field(default_factory=dict)


@dataclass(frozen=True)
class ShardResult:
    """The file that one rank has written, and the tensor shards in it."""

    file: File
    parts: list[tuple[str, list[int], str, int, int]]  # name, whole shape, dtype, start, stop

    @classmethod
    def of(cls, file: File, parts: list[TensorShard]) -> "ShardResult":
        """The result for a file that holds `parts`."""
        return cls(file, [(part.name, part.shape, part.dtype, part.start, part.stop) for part in parts])


def rank_file(rank: int) -> str:
    """The name of the file that a rank writes."""
    return f"rank-{rank:05d}.safetensors"


def tensor_chunk(part: TensorShard, read: Callable[[], np.ndarray]) -> TensorChunk:
    return TensorChunk(part.name, part.dtype, [part.stop - part.start], read)


def publish(
    storage: Storage, unfinished: str, info: CheckpointInfo, topology: dict[str, int], written: list[ShardResult]
) -> None:
    """Write the manifest of the files that all ranks have written (in rank order), and rename the directory.

    unfinished: the name of the directory while it is written.
    """
    tensors: dict[str, Tensor] = {}
    for rank, result in enumerate(written):
        for name, shape, dtype, start, stop in result.parts:
            tensors.setdefault(name, Tensor(shape, dtype, [])).slices.append(Slice(rank_file(rank), start, stop))
    for tensor in tensors.values():
        tensor.slices.sort(key=lambda part: part.start)
    _check_complete(tensors)
    manifest = Manifest(
        VERSION,
        topology=topology,
        tensors=tensors,
        files={rank_file(rank): result.file for rank, result in enumerate(written)},
        **vars(info),
    )
    with storage.create(f"{unfinished}/{MANIFEST}") as opened:
        opened.write(manifest.to_json().encode())
    storage.publish(unfinished, step_directory(info.step))


def _check_complete(tensors: dict[str, Tensor]) -> None:
    """Raise CheckpointError unless the shards of all ranks cover each tensor exactly once."""
    for name, tensor in tensors.items():
        edges = [0, *(part.stop for part in tensor.slices)]
        if [part.start for part in tensor.slices] != edges[:-1] or edges[-1] != prod(tensor.shape):
            raise CheckpointError(f"{name}: the shards of all ranks do not cover it exactly once")


def prune(
    folder: Location,
    storage: Storage,
    newest: int,
    settings: config.Checkpoint,
    damaged: Collection[Location] = (),
) -> None:
    """Remove old checkpoints: keep the newest `keep_last` valid ones up to step `newest`, and multiples of
    `keep_every`.

    A checkpoint is valid here if its manifest is, if its files have the right sizes, and if it is not one of `damaged`.
    Its files are not hashed, because reading all checkpoints takes longer than writing one.

    A checkpoint that cannot be removed is logged, because the newest one is already safe, and the others are removed.
    """
    with _logged(f"{folder}: old checkpoints cannot be listed"):
        steps = {path: step for path in checkpoints_in(folder) if (step := step_of(path) or 0) <= newest}
        valid = [path for path in steps if path not in damaged and _complete(path)]
        keep = valid[-settings.keep_last :]
        if settings.keep_every:
            keep += [path for path in valid if steps[path] % settings.keep_every == 0]
        for path, step in steps.items():
            if path not in keep and step < newest:
                with _logged(f"{path}: cannot be removed"):
                    storage.remove(split_location(path)[1])


@contextmanager
def _logged(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning("%s (%s)", what, error.strerror or error)


def _complete(path: Location) -> bool:
    try:
        return find_incomplete(path, read_manifest(path)) is None
    except CheckpointError:
        return False
