"""Reads checkpoints. A checkpoint is verified as a whole before any of it is used."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vilg import config
from vilg.checkpoint import slices
from vilg.checkpoint.format import CheckpointError, Manifest, checkpoints_in, read_manifest, step_directory
from vilg.checkpoint.slices import SliceReader
from vilg.checkpoint.storage import Location, join, location, split_location
from vilg.distributed.world import World
from vilg.errors import os_reason

log = logging.getLogger(__name__)

_THREADS = 2


def verify(checkpoint: Location, world: World | None = None) -> Manifest:
    """Check the size and the hash of every file, and return the manifest. Raises CheckpointError.

    With a `world`, all ranks call this: each one hashes a part of the files, and all ranks raise the same error.
    """
    rank, ranks = (world.rank, world.ranks) if world else (0, 1)
    manifest, problems = None, []
    try:
        manifest = read_manifest(checkpoint)
        problems = find_damage(checkpoint, manifest, sorted(manifest.files)[rank::ranks])
    except Exception as error:  # every rank has to learn of any error, or the others would wait
        problems = [str(error)]
    if world:
        problems = sorted({problem for of_rank in world.gather(problems) for problem in of_rank})
    if problems:
        raise CheckpointError(problems[0])
    assert manifest is not None
    return manifest


def find_damage(checkpoint: Location, manifest: Manifest, files: list[str]) -> list[str]:
    """Messages about those of `files` that are missing or damaged."""
    storage, name = split_location(checkpoint)

    def problem(file: str) -> str | None:
        try:
            slices.verify_file(storage, f"{name}/{file}", manifest.files[file])
        except FileNotFoundError:
            return f"{join(checkpoint, file)}: missing"
        except OSError as error:
            return f"{join(checkpoint, file)}: {os_reason(error)}"
        except CheckpointError as error:
            return str(error).replace(f"{name}/{file}", str(join(checkpoint, file)), 1)
        return None

    with ThreadPoolExecutor(_THREADS) as threads:
        return [message for message in threads.map(problem, files) if message]


class CheckpointReader:
    """Reads ranges of tensors from a verified checkpoint, on any number of ranks."""

    def __init__(self, checkpoint: Location):
        self.checkpoint, self.manifest = checkpoint, read_manifest(checkpoint)
        self._storage, self._name = split_location(checkpoint)
        self._opened: dict[str, SliceReader] = {}

    @property
    def shapes(self) -> dict[str, list[int]]:
        return {name: tensor.shape for name, tensor in self.manifest.tensors.items()}

    def range(self, name: str, start: int, stop: int) -> np.ndarray:
        """Elements [start, stop) of the flattened tensor `name`. Only these elements are read.

        Raises CheckpointError if the checkpoint lacks some of them.
        """
        tensor = self.manifest.tensors[name]
        values, place = np.empty(stop - start, dtype=tensor.dtype), start
        for part in tensor.slices:
            first, last = max(place, part.start), min(stop, part.stop)
            if first == place and first < last:
                values[first - start : last - start] = self._file(part.file).elements(
                    name, first - part.start, last - part.start
                )
                place = last
        if place < stop:
            raise CheckpointError(f"{self.checkpoint}: {name}: elements from {place} on are missing")
        return values

    def tensor(self, name: str) -> np.ndarray:
        shape = self.manifest.tensors[name].shape
        return self.range(name, 0, int(np.prod(shape, dtype=np.int64))).reshape(shape)

    def _file(self, file: str) -> SliceReader:
        if file not in self._opened:
            self._opened[file] = SliceReader(self._storage, f"{self._name}/{file}")
        return self._opened[file]


def load(checkpoint: Location) -> tuple[Manifest, dict[str, np.ndarray]]:
    """Verify a checkpoint and read all of its tensors. Raises CheckpointError."""
    verify(checkpoint)
    reader = CheckpointReader(checkpoint)
    return reader.manifest, {name: reader.tensor(name) for name in reader.shapes}


def newest_valid(folder: Location, world: World | None = None) -> Location | None:
    """The newest valid checkpoint in `folder`, or None if there is no checkpoint. With a `world`, all ranks call this.

    Newer checkpoints that are not valid are logged. Raises CheckpointError if there are checkpoints but none is valid.
    """
    if world is None:
        checkpoints = checkpoints_in(folder)
    else:
        with world.fail_together():
            listed = _listed(folder) if world.is_rank_zero else []
        checkpoints = world.gather(listed)[0]
    return newest_valid_of(checkpoints, world) if checkpoints else None


def newest_valid_of(checkpoints: list[Location], world: World | None = None) -> Location:
    """The last valid one of `checkpoints`. Raises CheckpointError if none is valid."""
    for checkpoint in reversed(checkpoints):
        try:
            verify(checkpoint, world)
            return checkpoint
        except CheckpointError as error:
            if world is None or world.is_rank_zero:
                log.warning("skipped an invalid checkpoint: %s", error)
    raise CheckpointError(f"{checkpoints[-1]}: the newest of {len(checkpoints)} checkpoints, none of which is valid")


def _listed(folder: Location) -> list[Location]:
    try:
        return checkpoints_in(folder)
    except OSError as error:
        raise CheckpointError(f"{folder}: {os_reason(error)}") from None


def resolve_resume(resume: str, folder: Location, world: World | None = None, initial: str = "") -> Location | None:
    """The verified checkpoint that `resume` (none, auto, step:N or a path) selects, or None.

    `auto` takes the newest valid checkpoint in `folder`, or `initial` if the folder has no checkpoint. `step:N`, a
    checkpoint in `folder`, and a path never fall back to another checkpoint.
    """
    if resume == "none":
        return None
    if resume == "auto":
        own = newest_valid(folder, world)
        if own is not None or not initial:
            return own
    step = config.Resume(resume).step
    if step is not None:
        chosen = join(folder, step_directory(step))
    else:
        chosen = location(initial if resume == "auto" else resume)
    verify(chosen, world)
    return chosen
