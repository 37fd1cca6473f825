"""The manifest of a folder of token shards.

part-000000.safetensors   see token_part.py
part-000001.safetensors
manifest.json             written last; without it the folder is incomplete
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from vilg.data.token_part import TokenPart
from vilg.errors import UserError, os_reason
from vilg.files import write_atomically

VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class TokenizationConfig:
    """Everything that determines the tokens: equal configurations give equal shards. (Stored as "recipe".)

    image_tokenizer: {"kind", "path", "codes", "grid", "sha256"}. vocabulary: {"tokenizer", "path", "entries",
    "sha256"}. source: {"shards", "samples", "sha256"} of the image shards. The other fields are settings; `part` is
    tokenize.images_per_file. Paths are informative only and may change.
    """

    image_tokenizer: dict
    vocabulary: dict
    source: dict
    image_size: int
    crop_jitter: float
    crops: int
    seed: int
    part: int

    def difference(self, other: "TokenizationConfig") -> str | None:
        """The name of a field in which two configurations differ, or None."""
        mine, theirs = _without_paths(self), _without_paths(other)
        return next((name for name in mine if mine[name] != theirs[name]), None)


def _without_paths(tokenization: TokenizationConfig) -> dict:
    return {
        name: {key: item for key, item in value.items() if key != "path"} if isinstance(value, dict) else value
        for name, value in asdict(tokenization).items()
    }


@dataclass(frozen=True)
class Part:
    """One file: size in bytes, digest of its arrays, number of images and captions, and names of skipped samples."""

    file: str
    size: int
    sha256: str
    images: int
    captions: int
    skipped: list[str]


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json."""

    version: int
    recipe: TokenizationConfig
    parts: list[Part]

    def total(self, what: str) -> int:
        """The sum of `size`, `images` or `captions` over all files."""
        return sum(getattr(part, what) for part in self.parts)

    def write(self, folder: Path) -> None:
        """Write the manifest with a hash of itself, so that later changes are detected."""
        body = asdict(self)
        write_atomically(
            folder / MANIFEST, json.dumps({**body, "sha256": _hash(body)}, ensure_ascii=False, indent=1).encode()
        )


def part_file(number: int) -> str:
    return f"part-{number:06d}.safetensors"


def read_part(folder: Path, number: int) -> tuple[TokenizationConfig, Part] | None:
    """The configuration and description stored in a file; None if the file does not exist. Raises UserError."""
    file = folder / part_file(number)
    if not file.exists():
        return None
    description = TokenPart(file).metadata
    tokenization = TokenizationConfig(**description.pop("recipe"))
    return tokenization, Part(file.name, file.stat().st_size, **description)


def read_manifest(folder: Path) -> Manifest:
    """Read a manifest. Raises UserError if it is missing, damaged or of another version."""
    file = folder / MANIFEST
    try:
        body = json.loads(file.read_text("utf-8"))
        claimed = body.pop("sha256")
    except FileNotFoundError:
        raise UserError(
            f"{folder}: no {MANIFEST}: not a folder of token shards, or `vilg data tokenize` has not finished"
        ) from None
    except OSError as error:
        raise UserError(f"{file}: {os_reason(error)}") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{file}: damaged, not valid JSON") from None
    if body.get("version") != VERSION:
        raise UserError(f"{file}: format {body.get('version')}, this vilg reads {VERSION}")
    if claimed != _hash(body):
        raise UserError(f"{file}: damaged, its contents do not match its hash")
    return Manifest(VERSION, TokenizationConfig(**body["recipe"]), [Part(**part) for part in body["parts"]])


def _hash(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
