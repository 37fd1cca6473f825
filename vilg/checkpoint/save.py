"""Writing a checkpoint so that it either exists whole or not at all."""

import os
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from vilg.checkpoint.format import (MANIFEST, VERSION, CheckpointError, File, Manifest, Slice, Tensor, checkpoints_in,
                                    directory_of, hash_file)
from vilg.distributed.world import World


def save(folder: Path, world: World, tensors: dict[str, np.ndarray], step: int, consumed_samples: int, settings: dict,
         keep_last: int) -> Path:
    """Write `folder/step-XXXXXXXX`, called on every rank with the same arguments; returns its path.

    Replicas share the writing: each tensor is one whole slice in the file of one rank. A failure on any rank leaves
    the older checkpoints as they were and raises CheckpointError on all. Afterwards only the newest `keep_last`
    checkpoints remain.
    """
    target = folder / directory_of(step)
    hidden = folder / f".{target.name}.writing"
    if world.first:
        _clear_leftovers(folder)
        hidden.mkdir(parents=True)
    world.barrier()
    owners = share_out(tensors, world.ranks)
    file = f"rank-{world.rank:05d}.safetensors"
    _raise_together(world, hidden, lambda: _write_slices(
        hidden / file, {name: tensors[name] for name, owner in owners.items() if owner == world.rank}))
    written = world.gather((file, File((hidden / file).stat().st_size, hash_file(hidden / file))))

    def publish():
        if not world.first:
            return
        entries = {
            name: Tensor(list(value.shape), str(value.dtype),
                         [Slice(f"rank-{owners[name]:05d}.safetensors", 0, value.size)])
            for name, value in tensors.items()
        }
        manifest = Manifest(VERSION, step, consumed_samples, {"ranks": world.ranks}, settings, entries, dict(written))
        _write_synced(hidden / MANIFEST, manifest.to_json().encode())
        _sync_directory(hidden)
        if target.exists():  # this very step was saved before: a run that resumed from an older checkpoint
            shutil.rmtree(target)
        os.rename(hidden, target)
        _sync_directory(folder)
        for old in checkpoints_in(folder)[:-keep_last]:
            shutil.rmtree(old)

    _raise_together(world, hidden, publish)
    return target


def share_out(tensors: dict[str, np.ndarray], ranks: int) -> dict[str, int]:
    """Which rank writes which tensor: the largest first, always to the rank with the least to write."""
    load = [0] * ranks
    owners = {}
    for name in sorted(tensors, key=lambda name: (-tensors[name].nbytes, name)):
        owners[name] = load.index(min(load))
        load[owners[name]] += tensors[name].nbytes
    return owners


def _write_slices(file: Path, tensors: dict[str, np.ndarray]) -> None:
    save_file({name: np.ascontiguousarray(value).reshape(-1) for name, value in tensors.items()}, file)
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())


def _raise_together(world: World, hidden: Path, work) -> None:
    """Do `work`; if it failed on any rank, remove what was written and raise the same error on every rank."""
    failure = None
    try:
        work()
    except Exception as error:  # safetensors has its own type; whatever it is, every rank must hear of it
        failure = f"rank {world.rank} could not write the checkpoint: {error}"
    failures = [text for text in world.gather(failure) if text]
    if failures:
        if world.first:
            shutil.rmtree(hidden, ignore_errors=True)
        raise CheckpointError(f"{hidden.parent}: {failures[0]}; older checkpoints are as they were")


def _clear_leftovers(folder: Path) -> None:
    """Remove what a save that was killed left behind."""
    for leftover in folder.glob(".step-*.writing"):
        shutil.rmtree(leftover)


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
