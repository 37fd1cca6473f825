"""The layout of a checkpoint on disk.

    step-00001234/
        manifest.json                 written last; a directory without a valid one is not a checkpoint
        rank-00000.safetensors        flat slices of tensors, one file for each rank
        rank-00001.safetensors

A checkpoint is written under a hidden name and renamed after everything in it has reached the disk.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field

from vilg.checkpoint.storage import Location, join, open_storage, split_location
from vilg.errors import UserError, os_reason

VERSION = 2
MANIFEST = "manifest.json"
BLOCK = 16 * 2**20  # bytes of a file between two digests in the manifest
_STEP = re.compile(r"step-(\d{8,})")


class CheckpointError(UserError):
    """A checkpoint that cannot be used or saved. The message names the file and what is wrong with it.

    is_transient: whether another attempt may succeed.
    """

    is_transient = False


@dataclass(frozen=True)
class Slice:
    """Elements [start, stop) of a flattened tensor. They are stored in `file` under the name of the tensor."""

    file: str
    start: int
    stop: int


@dataclass(frozen=True)
class Tensor:
    """One tensor of the whole job: its global shape, its dtype, and the slices that store it."""

    shape: list[int]
    dtype: str
    slices: list[Slice]


@dataclass(frozen=True)
class File:
    """Size and hashes of one file.

    prefixes: SHA-256 digests (truncated) of the first block of the file, of the first two blocks, and so on, BLOCK
    bytes each.
    """

    size: int
    sha256: str
    prefixes: list[str]


@dataclass(frozen=True)
class Manifest:
    """Everything about a checkpoint except the tensor values.

    topology: {"ranks", "shards"} of the job that wrote it. settings: the resolved settings of the run. tokenizers:
    fingerprints of the tokenizers that the model was trained with, {"text": .., "image": ..}; empty for an image
    tokenizer. data: {"shards", "sha256"} of the training data. loss_scale: state of the fp16 loss scaler; empty in
    other precisions. spikes: the steps that were passed over and the recent losses, see vilg/training/spikes.py; empty
    in older checkpoints.
    """

    version: int
    step: int
    consumed_samples: int
    topology: dict[str, int]
    settings: dict
    tokenizers: dict[str, str]
    data: dict
    loss_scale: dict
    tensors: dict[str, Tensor]
    files: dict[str, File]
    spikes: dict = field(default_factory=dict)

    def to_json(self) -> str:
        """The manifest as JSON, with a hash of itself so that later changes are detected."""
        body = asdict(self)
        return json.dumps({**body, "sha256": _hash(body)}, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def read_manifest(checkpoint: Location) -> Manifest:
    """Read the manifest of a checkpoint directory. Raises CheckpointError if it is missing, damaged or of another
    version.
    """
    storage, name = split_location(checkpoint)
    file = join(checkpoint, MANIFEST)
    try:
        inside = f"{name}/{MANIFEST}"
        body = json.loads(bytes(storage.read(inside, 0, storage.size(inside))).decode("utf-8"))
        claimed = body.pop("sha256")
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{checkpoint}: not a checkpoint, it has no {MANIFEST}") from None
    except OSError as error:
        raise CheckpointError(f"{file}: {os_reason(error)}") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise CheckpointError(f"{file}: damaged, not valid JSON") from None
    if body.get("version") != VERSION:
        raise CheckpointError(f"{file}: format {body.get('version')}, this vilg reads {VERSION}")
    if claimed != _hash(body):
        raise CheckpointError(f"{file}: damaged, its contents do not match its hash")
    tensors = {
        name: Tensor(entry["shape"], entry["dtype"], [Slice(**part) for part in entry["slices"]])
        for name, entry in body.pop("tensors").items()
    }
    files = {name: File(**entry) for name, entry in body.pop("files").items()}
    return Manifest(**body, tensors=tensors, files=files)


def step_directory(step: int) -> str:
    return f"step-{step:08d}"


def checkpoints_in(folder: Location) -> list[Location]:
    """All checkpoint directories in `folder`, oldest first, valid or not."""
    names = [name for name in open_storage(folder).folders() if _STEP.fullmatch(name)]
    return [join(folder, name) for name in sorted(names, key=lambda name: int(name.removeprefix("step-")))]


def checkpoints_after(folder: Location, step: int) -> list[Location]:
    """The checkpoint directories of later steps in `folder`, oldest first, valid or not."""
    return [path for path in checkpoints_in(folder) if (step_of(path) or 0) > step]


def step_of(checkpoint: Location) -> int | None:
    """The step in the name of a checkpoint directory, or None if the directory has another name."""
    match = _STEP.fullmatch(split_location(checkpoint)[1])
    return int(match[1]) if match else None


def find_incomplete(checkpoint: Location, manifest: Manifest) -> str | None:
    """Compare the size of every file with the manifest. Returns a message about the first mismatch, or None."""
    storage, name = split_location(checkpoint)
    for file, expected in manifest.files.items():
        try:
            size = storage.size(f"{name}/{file}")
        except OSError:
            return f"{join(checkpoint, file)}: missing"
        if size != expected.size:
            return f"{join(checkpoint, file)}: {size} bytes, {expected.size} were written"
    return None


def _hash(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
