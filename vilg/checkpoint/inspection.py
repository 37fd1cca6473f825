"""The commands `vilg checkpoint list`, `verify` and `consolidate`."""

import logging
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import yaml

from vilg import config
from vilg.checkpoint import slices
from vilg.checkpoint.format import MANIFEST, CheckpointError, checkpoints_in, find_incomplete, read_manifest, step_of
from vilg.checkpoint.load import CheckpointReader, find_damage, newest_valid_of, verify
from vilg.checkpoint.slices import TensorChunk
from vilg.checkpoint.storage import LocalStorage, Location, location, split_location
from vilg.errors import UserError

log = logging.getLogger(__name__)

_WEIGHTS = "model/"


def checkpoint_folder(run: Path) -> Location:
    """The folder with the checkpoints of a run. The run's settings.yaml may name a folder outside of the run."""
    file = run / "settings.yaml"
    if not file.exists():
        return run / "checkpoints"
    try:
        tree = yaml.safe_load(file.read_text("utf-8"))
        settings = config.Checkpoint(folder=tree["checkpoint"].get("folder", ""))
        directory = settings.directory(config.Run(name=tree["run"]["name"], dir=str(run.parent)))
        # Without checkpoint.folder, the checkpoints are in the run, which may have been renamed.
        return location(directory) if settings.folder else run / "checkpoints"
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, ValueError):
        log.warning("%s: empty or damaged; its checkpoints are expected in %s/checkpoints", file, run)
        return run / "checkpoints"


def select_checkpoints(path: str) -> list[Location]:
    """The checkpoints that a user means by `path`: one checkpoint, or all checkpoints of a run or of a folder.

    Raises UserError if there is none.
    """
    directory = location(path)
    if split_location(directory)[1].startswith("step-"):
        return [directory]
    try:
        read_manifest(directory)
        return [directory]  # a checkpoint directory that was renamed
    except CheckpointError:
        checkpoints = checkpoints_in(directory)
    if not checkpoints and isinstance(directory, Path):
        checkpoints = checkpoints_in(checkpoint_folder(directory))
    if not checkpoints:
        raise UserError(f"{path}: no checkpoint in it")
    return checkpoints


def list_checkpoints(path: str, newest: int = 0) -> Iterator[str]:
    """Yield one line for each checkpoint: step, time, bytes, the topology that wrote it, and whether it is complete.

    Only sizes are compared; `verify_checkpoints` reads the files. newest: list so many of the newest ones; 0: all.
    """
    yield f"{'step':>10} {'written':16} {'size':>10} {'ranks x shards':>14}  "
    for checkpoint in select_checkpoints(path)[-newest:]:
        line, valid = _list_checkpoint(checkpoint)
        if valid or _exists(checkpoint):  # a running job removes old checkpoints meanwhile
            yield line


def _list_checkpoint(checkpoint: Location) -> tuple[str, bool]:
    """(line, whether the checkpoint is complete)."""
    storage, name = split_location(checkpoint)
    try:
        manifest = read_manifest(checkpoint)
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(storage.time(f"{name}/{MANIFEST}")))
        wrong = find_incomplete(checkpoint, manifest)
    except (CheckpointError, OSError) as error:
        step = step_of(checkpoint)
        return f"{'?' if step is None else step:>10} {'':16} {'':>10} {'':>14}  not valid: {error}", False
    size = sum(file.size for file in manifest.files.values())
    topology = f"{manifest.topology['ranks']} x {manifest.topology['shards']}"
    state = "complete" if wrong is None else f"not valid: {wrong}"
    return f"{manifest.step:>10} {when:16} {size / 1e6:>7.1f} MB {topology:>14}  {state}", wrong is None


def _exists(checkpoint: Location) -> bool:
    storage, name = split_location(checkpoint)
    return name in storage.folders()


def verify_checkpoints(path: str) -> Iterator[tuple[str, bool]]:
    """Read and hash all files. Yields (line, ok) for each checkpoint, or one line for each damaged file."""
    for checkpoint in select_checkpoints(path):
        try:
            manifest = read_manifest(checkpoint)
            bad = find_damage(checkpoint, manifest, sorted(manifest.files))
        except CheckpointError as error:
            bad = [str(error)]
        if bad:
            yield from ((problem, False) for problem in bad)
        else:
            yield f"{checkpoint}: valid, {len(manifest.files)} files", True


def consolidate(path: str, out: Path) -> tuple[Location, int]:
    """Write the weights of a checkpoint as one safetensors file with the parameter names of the model.

    If `path` is a run, its newest valid checkpoint is used. Tensors are copied one at a time. Returns the checkpoint
    and the number of tensors.
    """
    checkpoints = select_checkpoints(path)
    if len(checkpoints) == 1:
        chosen = checkpoints[0]
        verify(chosen)
    else:
        chosen = newest_valid_of(checkpoints)
    reader = CheckpointReader(chosen)
    contents = [
        TensorChunk(name.removeprefix(_WEIGHTS), tensor.dtype, tensor.shape, partial(reader.tensor, name))
        for name, tensor in reader.manifest.tensors.items()
        if name.startswith(_WEIGHTS)
    ]
    hidden = out.with_name(f".{out.name}.writing")
    try:
        slices.write(LocalStorage(out.parent), hidden.name, contents)
        os.replace(hidden, out)
    finally:
        hidden.unlink(missing_ok=True)
    return chosen, len(contents)
