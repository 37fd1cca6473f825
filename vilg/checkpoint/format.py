"""What a checkpoint looks like on disk.

    step-00001234/
        manifest.json                 written last; without a valid one the directory does not exist
        rank-00000.safetensors        flat slices of tensors, one file a rank
        rank-00001.safetensors

A directory is filled under a hidden name and renamed once everything in it has reached the disk.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from vilg.errors import UserError

VERSION = 1
MANIFEST = "manifest.json"
_STEP = re.compile(r"step-(\d{8,})")


class CheckpointError(UserError):
    """A checkpoint that cannot be trusted: what is wrong with which file."""


@dataclass(frozen=True)
class Slice:
    """Elements [start, stop) of a flattened tensor lie in `file` under the tensor's name."""

    file: str
    start: int
    stop: int


@dataclass(frozen=True)
class Tensor:
    """One tensor of the whole job: its global shape, its dtype, and where its slices lie."""

    shape: list[int]
    dtype: str
    slices: list[Slice]


@dataclass(frozen=True)
class File:
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything about a checkpoint but the numbers.

    `topology` holds the number of ranks that wrote it, `tokenizers` the hashes of those that the model was trained
    with: {"text": .., "image": ..}, empty for an image tokenizer.
    """

    version: int
    step: int
    consumed_samples: int
    topology: dict[str, int]
    settings: dict
    tokenizers: dict[str, str]
    tensors: dict[str, Tensor]
    files: dict[str, File]

    def to_json(self) -> str:
        """The manifest with its own hash, so that an edited one is found out."""
        body = asdict(self)
        return json.dumps({**body, "sha256": _hash(body)}, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint directory. CheckpointError if it is missing, damaged or of another version."""
    file = checkpoint / MANIFEST
    try:
        body = json.loads(file.read_text("utf-8"))
        claimed = body.pop("sha256")
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint}: not a checkpoint, it has no {MANIFEST}") from None
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror.lower()}") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise CheckpointError(f"{file}: damaged, not the JSON that was written") from None
    if body.get("version") != VERSION:
        raise CheckpointError(f"{file}: format {body.get('version')}, this vilg reads {VERSION}")
    if claimed != _hash(body):
        raise CheckpointError(f"{file}: damaged, its contents do not have the hash it names")
    tensors = {
        name: Tensor(entry["shape"], entry["dtype"], [Slice(**part) for part in entry["slices"]])
        for name, entry in body.pop("tensors").items()
    }
    files = {name: File(**entry) for name, entry in body.pop("files").items()}
    return Manifest(**body, tensors=tensors, files=files)


def directory_of(step: int) -> str:
    return f"step-{step:08d}"


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoint directories in `folder`, oldest first, valid or not."""
    found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _STEP.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def hash_file(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _hash(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
