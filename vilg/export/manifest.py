"""The `manifest.json` of an export: sizes, origin, and the hash of every file."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from vilg.attention import layout
from vilg.attention.layout import Layout
from vilg.attention.patterns import DIRECTIONS, schedule
from vilg.errors import UserError, os_reason

FORMAT = 2  # 1: every program had a copy of the weights
NAME, VOCABULARY = "manifest.json", "vocab.txt"
_MAKES_ONE = "`vilg export` makes one of it"


def prefill(direction: str) -> str:
    return f"{direction}_prefill"


def step(direction: str) -> str:
    return f"{direction}_step"


ENCODE, DECODE = "image_encode", "image_decode"
OF_TRANSFORMER = (*map(prefill, DIRECTIONS), *map(step, DIRECTIONS))  # its weights are their inputs
PROGRAMS = (*OF_TRANSFORMER, ENCODE, DECODE)
WEIGHTS = "transformer.safetensors"


@dataclass(frozen=True)
class Sizes:
    """The shapes that the programs were traced with. The number of texts, images and samples is free."""

    layers: int
    heads: int
    head_size: int
    conv_kernel: int
    text_length: int
    grid: tuple[int, int]
    image_size: int  # side in pixels
    vocabulary: int  # entries of the text vocabulary
    codes: int  # of the image codebook

    @property
    def patterns(self) -> list[str]:
        """The pattern of each layer."""
        return schedule(self.layers)

    @property
    def windows(self) -> list[str]:
        """Each pattern once, in order of the first layer that uses it. Layers with the same pattern see the same
        positions.
        """
        return list(dict.fromkeys(self.patterns))

    def layout(self, direction: str, pattern: str) -> Layout:
        return layout.build(direction, pattern, self.text_length, self.grid, self.conv_kernel)


@dataclass(frozen=True)
class File:
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json.

    operator: whether the programs need the compiled attention operator. versions: of vilg and Paddle. self_test:
    differences between export and checkpoint (exporter.py). drop_caption: train.caption_dropout of the training; None
    in older exports. precision: of the transformer, fp32, bf16 or fp16; images are encoded and decoded in fp32.
    device: "cpu" or "gpu", where it was exported. weights: of each program of the transformer, the names of those that
    are its last inputs.
    """

    sizes: Sizes
    operator: bool
    checkpoint: str
    versions: dict[str, str]
    self_test: dict[str, float]
    files: dict[str, File]
    drop_caption: float | None = None
    precision: str = "fp32"
    device: str | None = None
    weights: dict[str, list[str]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        tree = {"format": FORMAT, **asdict(self)}
        (folder / NAME).write_text(json.dumps({**tree, "sha256": _digest(tree)}, indent=1) + "\n", "utf-8")


def _digest(tree: dict) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def file_of(path: Path) -> File:
    with path.open("rb") as stream:
        return File(path.stat().st_size, _hash(stream))


def _hash(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while part := stream.read(2**20):
        digest.update(part)
    return digest.hexdigest()


def read(folder: Path) -> Manifest:
    """Read the manifest of an export. `ExportFiles` verifies the files that it names. Raises UserError."""
    try:
        tree = json.loads((folder / NAME).read_text("utf-8"))
    except OSError as error:
        if (folder / "settings.yaml").is_file():
            raise UserError(f"{folder}: a run, not an export; {_MAKES_ONE}") from None
        raise UserError(f"{folder}: not an export ({NAME}: {os_reason(error)})") from None
    except ValueError:
        raise UserError(f"{folder / NAME}: damaged, not JSON") from None
    try:
        if "tensors" in tree:
            raise UserError(f"{folder}: a checkpoint, not an export; {_MAKES_ONE}")
        own = tree.pop("sha256", None)
        if tree["format"] != FORMAT:
            raise UserError(f"{folder}: an export of another format; this vilg reads format {FORMAT}")
        if own != _digest(tree):
            raise UserError(f"{folder / NAME}: not what was exported (SHA-256 differs); the export is damaged")
        del tree["format"]
        files = {name: File(**file) for name, file in tree.pop("files").items()}
        sizes = tree.pop("sizes")
        manifest = Manifest(sizes=Sizes(**{**sizes, "grid": tuple(sizes["grid"])}), files=files, **tree)
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / NAME}: damaged, not the manifest of an export") from None
    needed = {VOCABULARY, WEIGHTS, *(f"{name}.json" for name in PROGRAMS), f"{ENCODE}.pdiparams", f"{DECODE}.pdiparams"}
    if missing := sorted(needed - files.keys()):
        raise UserError(f"{folder / NAME}: names no {missing[0]}")
    return manifest


def verified(path: Path, expected: File) -> int:
    """Open a file of an export and compare it with the manifest. Returns its descriptor. Raises UserError."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{path}: {os_reason(error)}; the export is incomplete") from None
    with os.fdopen(descriptor, "rb", closefd=False) as stream:
        if (size := os.fstat(descriptor).st_size) != expected.size:
            problem = f"{size} bytes instead of {expected.size}"
        elif _hash(stream) != expected.sha256:
            problem = "not what was exported (SHA-256 differs)"
        else:
            return descriptor
    os.close(descriptor)
    raise UserError(f"{path}: {problem}; the export is damaged")
