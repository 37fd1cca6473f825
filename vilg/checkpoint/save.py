"""Writing a checkpoint so that it either exists whole or not at all."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from vilg.checkpoint.format import (MANIFEST, VERSION, CheckpointError, File, Manifest, Slice, Tensor, checkpoints_in,
                                    directory_of, hash_file, read_manifest)
from vilg.distributed.states import Part
from vilg.distributed.world import World

log = logging.getLogger(__name__)


def save(folder: Path, world: World, parts: list[Part], step: int, consumed_samples: int, settings: dict,
         tokenizers: dict[str, str], keep_last: int) -> Path:
    """Write `folder/step-XXXXXXXX`, called on every rank with what it holds; returns its path.

    Ranks that hold the same part share the writing. A failure on any rank leaves the older checkpoints as they were and
    raises CheckpointError on all. Afterwards only the newest `keep_last` checkpoints up to this step remain.
    """
    target = folder / directory_of(step)
    hidden = folder / f".{target.name}.writing"
    mine = share_of(parts, world.rank)
    name = _file_of(world.rank)
    with _writing(world, hidden):
        if world.first:
            _clear_leftovers(folder)
            hidden.mkdir(parents=True)
    with _writing(world, hidden):
        _write_slices(hidden / name, {part.name: part.read() for part in mine})
        file = File((hidden / name).stat().st_size, hash_file(hidden / name))
    written = world.gather((file, [(part.name, part.shape, part.dtype, part.start, part.stop) for part in mine]))
    with _writing(world, hidden):
        if world.first:
            topology = {"ranks": world.ranks, "shards": world.topology.shards}
            manifest = Manifest(VERSION, step, consumed_samples, topology, settings, tokenizers, _tensors(written),
                                {_file_of(rank): file for rank, (file, _) in enumerate(written)})
            _write_synced(hidden / MANIFEST, manifest.to_json().encode())
            _sync_directory(hidden)
            _publish(hidden, target)
    if world.first:
        _prune(folder, target, keep_last)
    return target


@contextmanager
def _writing(world: World, hidden: Path) -> Iterator[None]:
    """Work on a checkpoint that fails on every rank if it fails on one, and then leaves nothing behind."""
    try:
        with world.together():
            try:
                yield
            except Exception as error:  # safetensors has its own type; whatever it is, every rank must hear of it
                raise CheckpointError(f"{hidden.parent}: rank {world.rank} could not write the checkpoint: {error}; "
                                      "older checkpoints are as they were") from error
    except CheckpointError:
        if world.first:
            shutil.rmtree(hidden, ignore_errors=True)
        raise


def share_of(parts: list[Part], rank: int) -> list[Part]:
    """Which of the parts that `rank` holds it writes: of those that the same ranks hold, the largest first, always to
    the one with the least to write."""
    mine = []
    for holders in sorted({part.holders for part in parts}):
        load = dict.fromkeys(holders, 0)
        alike = [part for part in parts if part.holders == holders]
        for part in sorted(alike, key=lambda part: (part.start - part.stop, part.name)):
            writer = min(load, key=load.get)
            load[writer] += part.stop - part.start
            if writer == rank:
                mine.append(part)
    return mine


def _tensors(written: list[tuple[File, list]]) -> dict[str, Tensor]:
    """What all ranks wrote, put together by tensor."""
    tensors: dict[str, Tensor] = {}
    for rank, (_, slices) in enumerate(written):
        for name, shape, dtype, start, stop in slices:
            tensor = tensors.setdefault(name, Tensor(shape, dtype, []))
            tensor.slices.append(Slice(_file_of(rank), start, stop))
    for tensor in tensors.values():
        tensor.slices.sort(key=lambda part: part.start)
    return tensors


def _file_of(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def _write_slices(file: Path, tensors: dict[str, np.ndarray]) -> None:
    save_file({name: np.ascontiguousarray(value).reshape(-1) for name, value in tensors.items()}, file)
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())


def _clear_leftovers(folder: Path) -> None:
    """Remove what a save that was killed left behind."""
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover)


def _publish(hidden: Path, target: Path) -> None:
    """Give the directory its name. One of that name, left by a run that was resumed further back, steps aside."""
    replaced = target.with_name(f".{target.name}.replaced")
    if target.exists():
        os.rename(target, replaced)
    os.rename(hidden, target)
    _sync_directory(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _prune(folder: Path, newest: Path, keep_last: int) -> None:
    """Remove what is older than the newest `keep_last` checkpoints; what cannot be read counts for none."""
    older = [path for path in checkpoints_in(folder) if path.name < newest.name]
    whole = [path for path in older if _has_manifest(path)]
    kept = whole[len(whole) - (keep_last - 1) :] if keep_last <= len(whole) else whole
    for path in older:
        if path not in kept:
            try:
                shutil.rmtree(path)
            except OSError as error:
                log.warning("%s: cannot be removed (%s)", path, error.strerror)


def _has_manifest(path: Path) -> bool:
    try:
        read_manifest(path)
        return True
    except CheckpointError:
        return False


def _write_synced(file: Path, data: bytes) -> None:
    with open(file, "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
