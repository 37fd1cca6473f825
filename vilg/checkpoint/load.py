"""Reading a checkpoint: all of it or nothing."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vilg.checkpoint import slices
from vilg.checkpoint.format import CheckpointError, Manifest, checkpoints_in, read_manifest
from vilg.checkpoint.slices import SliceReader
from vilg.checkpoint.storage import Location, join, location, split_location
from vilg.distributed.world import World

log = logging.getLogger(__name__)

_THREADS = 2


def verify(checkpoint: Location, world: World | None = None) -> Manifest:
    """The manifest, once every file has the size and the hash that it names. Raises CheckpointError.

    With a `world` every rank calls this; each hashes some of the files, and all raise what any has found.
    """
    rank, ranks = (world.rank, world.ranks) if world else (0, 1)
    manifest, found = None, []
    try:
        manifest = read_manifest(checkpoint)
        found = find_damage(checkpoint, manifest, sorted(manifest.files)[rank::ranks])
    except Exception as error:  # whatever it is, the other ranks wait to hear of it
        found = [str(error)]
    if world:
        found = sorted({problem for of_rank in world.gather(found) for problem in of_rank})
    if found:
        raise CheckpointError(found[0])
    return manifest


def find_damage(checkpoint: Location, manifest: Manifest, files: list[str]) -> list[str]:
    """What is wrong with each of these files of a checkpoint, if anything is."""
    storage, name = split_location(checkpoint)

    def problem(file: str) -> str | None:
        try:
            slices.verify_file(storage, f"{name}/{file}", manifest.files[file])
        except FileNotFoundError:
            return f"{join(checkpoint, file)}: missing"
        except OSError as error:
            return f"{join(checkpoint, file)}: {(error.strerror or str(error)).lower()}"
        except CheckpointError as error:
            return str(error).replace(f"{name}/{file}", str(join(checkpoint, file)), 1)
        return None

    with ThreadPoolExecutor(_THREADS) as threads:
        return [one for one in threads.map(problem, files) if one]


class CheckpointReader:
    """The numbers of a checkpoint that `verify` or `choose` has found whole, range by range, on any number of ranks."""

    def __init__(self, checkpoint: Location):
        self.checkpoint, self.manifest = checkpoint, read_manifest(checkpoint)
        self._storage, self._name = split_location(checkpoint)
        self._opened: dict[str, SliceReader] = {}

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
                values[first - start : last - start] = self._file(part.file).elements(
                    name, first - part.start, last - part.start
                )
                place = last
        if place < stop:
            raise CheckpointError(f"{self.checkpoint}: {name} lacks its elements from {place} on")
        return values

    def tensor(self, name: str) -> np.ndarray:
        shape = self.manifest.tensors[name].shape
        return self.range(name, 0, int(np.prod(shape, dtype=np.int64))).reshape(shape)

    def _file(self, file: str) -> SliceReader:
        if file not in self._opened:
            self._opened[file] = SliceReader(self._storage, f"{self._name}/{file}")
        return self._opened[file]


def load(checkpoint: Location) -> tuple[Manifest, dict[str, np.ndarray]]:
    """Everything in a checkpoint, once it is found whole. Raises CheckpointError and gives nothing in part."""
    verify(checkpoint)
    reader = CheckpointReader(checkpoint)
    return reader.manifest, {name: reader.tensor(name) for name in reader.shapes}


def newest_valid(folder: Location, world: World | None = None) -> Location | None:
    """The newest checkpoint that can be trusted, None if there is none at all; with a `world` every rank calls this.

    Newer ones that cannot be trusted are named in the log; if none can, that is a CheckpointError.
    """
    if world is None:
        found = checkpoints_in(folder)
    else:
        with world.fail_together():
            found = _listed(folder) if world.is_rank_zero else None
        found = world.gather(found)[0]
    return newest_valid_of(found, world) if found else None


def newest_valid_of(found: list[Location], world: World | None = None) -> Location:
    """The last of these checkpoints that can be trusted; CheckpointError if none can."""
    for checkpoint in reversed(found):
        try:
            verify(checkpoint, world)
            return checkpoint
        except CheckpointError as error:
            if world is None or world.is_rank_zero:
                log.warning("passed over %s", error)
    raise CheckpointError(f"{found[-1]}: the newest of {len(found)} checkpoints, none of which can be read")


def _listed(folder: Location) -> list[Location]:
    try:
        return checkpoints_in(folder)
    except OSError as error:
        raise CheckpointError(f"{folder}: {(error.strerror or str(error)).lower()}") from None


def resolve_resume(resume: str, folder: Location, world: World | None = None) -> Location | None:
    """The verified checkpoint that the setting `resume` asks for: none | auto | PATH. A PATH never falls back."""
    if resume == "none":
        return None
    if resume == "auto":
        return newest_valid(folder, world)
    chosen = location(resume)
    verify(chosen, world)
    return chosen
