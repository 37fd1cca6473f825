"""What a folder of token shards says of itself.

part-000000.safetensors   see token_part.py
part-000001.safetensors
manifest.json             written last; without it the folder is not complete
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from vilg.data.token_part import TokenPart, publish
from vilg.errors import UserError

VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class TokenizationConfig:
    """What the tokens follow from: equal recipes make equal shards.

    image_tokenizer: {"kind", "path", "codes", "grid", "sha256"}; vocabulary: {"tokenizer", "path", "entries",
    "sha256"}; source: {"shards", "samples", "sha256"} of the shards of images. The other fields are settings. Paths
    tell people where things lay, and may change.
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
        """The name of a field in which the two differ."""
        mine, theirs = _without_paths(self), _without_paths(other)
        return next((name for name in mine if mine[name] != theirs[name]), None)


def _without_paths(tokenization: TokenizationConfig) -> dict:
    return {
        name: {key: one for key, one in value.items() if key != "path"} if isinstance(value, dict) else value
        for name, value in asdict(tokenization).items()
    }


@dataclass(frozen=True)
class Part:
    """A file: bytes, the digest of its arrays, how many images and captions, and the names of what was broken."""

    file: str
    size: int
    sha256: str
    images: int
    captions: int
    skipped: list[str]


@dataclass(frozen=True)
class Manifest:
    version: int
    recipe: TokenizationConfig
    parts: list[Part]

    def total(self, what: str) -> int:
        """The sum of `size`, `images` or `captions` over all files."""
        return sum(getattr(part, what) for part in self.parts)

    def write(self, folder: Path) -> None:
        """With its own hash, so that an edited one is found out."""
        body = asdict(self)
        publish(folder / MANIFEST, json.dumps({**body, "sha256": _hash(body)}, ensure_ascii=False, indent=1).encode())


def part_file(number: int) -> str:
    return f"part-{number:06d}.safetensors"


def read_part(folder: Path, number: int) -> tuple[TokenizationConfig, Part] | None:
    """What a file says of itself; None if there is none. UserError."""
    file = folder / part_file(number)
    if not file.exists():
        return None
    about = TokenPart(file).about
    tokenization = TokenizationConfig(**about.pop("recipe"))
    return tokenization, Part(file.name, file.stat().st_size, **about)


def read_manifest(folder: Path) -> Manifest:
    """UserError if there is none, or if it is damaged or of another version."""
    file = folder / MANIFEST
    try:
        body = json.loads(file.read_text("utf-8"))
        claimed = body.pop("sha256")
    except FileNotFoundError:
        raise UserError(
            f"{folder}: no token shards, or `vilg data tokenize` has not finished them: no {MANIFEST}"
        ) from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror.lower()}") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{file}: damaged, not the JSON that was written") from None
    if body.get("version") != VERSION:
        raise UserError(f"{file}: format {body.get('version')}, this vilg reads {VERSION}")
    if claimed != _hash(body):
        raise UserError(f"{file}: damaged, its contents do not have the hash it names")
    return Manifest(VERSION, TokenizationConfig(**body["recipe"]), [Part(**part) for part in body["parts"]])


def _hash(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
