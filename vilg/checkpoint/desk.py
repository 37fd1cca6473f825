"""`vilg checkpoint`: what a person asks of the checkpoints of a run."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from vilg import config
from vilg.checkpoint import slices
from vilg.checkpoint.format import MANIFEST, CheckpointError, checkpoints_in, incomplete, read_manifest, step_of
from vilg.checkpoint.load import Reader, newest_of, problems, verify
from vilg.checkpoint.slices import Content
from vilg.checkpoint.storage import Local, Where, split, where
from vilg.errors import UserError

_WEIGHTS = "model/"


def folder_of(run: Path) -> Where:
    """Where the checkpoints of a run lie: its own settings may name another place."""
    file = run / "settings.yaml"
    if not file.exists():
        return run / "checkpoints"
    tree = yaml.safe_load(file.read_text("utf-8"))
    settings = config.Checkpoint(folder=tree["checkpoint"].get("folder", ""))
    return where(settings.place(config.Run(name=tree["run"]["name"], dir=str(run.parent))))


def named(given: str) -> list[Where]:
    """The checkpoint that is named, or all of those in a run's folder or in a folder of checkpoints. UserError if there
    is none."""
    place = where(given)
    if split(place)[1].startswith("step-"):
        return [place]
    try:
        read_manifest(place)
        return [place]  # one that was given another name
    except CheckpointError:
        found = checkpoints_in(place)
    if not found and isinstance(place, Path):
        found = checkpoints_in(folder_of(place))
    if not found:
        raise UserError(f"{given}: no checkpoint in it")
    return found


def table(given: str) -> Iterator[str]:
    """A line for each checkpoint: step, when, bytes, the job that wrote it, and whether all of it is there. Only
    `verify` reads the files."""
    yield f"{'step':>10} {'written':16} {'size':>10} {'ranks x shards':>14}  "
    for checkpoint in named(given):
        try:
            manifest = read_manifest(checkpoint)
            storage, name = split(checkpoint)
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(storage.time(f"{name}/{MANIFEST}")))
            size = sum(file.size for file in manifest.files.values())
            topology = f"{manifest.topology['ranks']} x {manifest.topology['shards']}"
            yield f"{manifest.step:>10} {when:16} {size / 1e6:>7.1f} MB {topology:>14}  " + (
                "complete" if (wrong := incomplete(checkpoint, manifest)) is None else f"not valid: {wrong}"
            )
        except CheckpointError as error:
            yield f"{step_of(checkpoint) or '?':>10} {'':16} {'':>10} {'':>14}  not valid: {error}"


def verified(given: str) -> Iterator[tuple[str, bool]]:
    """(line, whether it is good news) for each checkpoint, after all of it has been read; for a bad one a line for each
    bad file."""
    for checkpoint in named(given):
        try:
            manifest = read_manifest(checkpoint)
            bad = problems(checkpoint, manifest, sorted(manifest.files))
        except CheckpointError as error:
            bad = [str(error)]
        if bad:
            yield from ((problem, False) for problem in bad)
        else:
            yield f"{checkpoint}: valid, {len(manifest.files)} files", True


def consolidate(given: str, out: Path) -> tuple[Where, int]:
    """Write the weights of a checkpoint, or of a run's newest valid one, as one safetensors file under the model's own
    names; tensor by tensor. Returns the checkpoint and how many tensors there are."""
    found = named(given)
    if len(found) == 1:
        chosen = found[0]
        verify(chosen)
    else:
        chosen = newest_of(found)
    reader = Reader(chosen)
    contents = [
        Content(name.removeprefix(_WEIGHTS), tensor.dtype, tensor.shape, lambda name=name: reader.tensor(name))
        for name, tensor in reader.manifest.tensors.items()
        if name.startswith(_WEIGHTS)
    ]
    hidden = out.with_name(f".{out.name}.writing")
    try:
        slices.write(Local(out.parent), hidden.name, contents)
        os.replace(hidden, out)
    finally:
        hidden.unlink(missing_ok=True)
    return chosen, len(contents)
