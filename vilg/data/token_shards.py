"""Random access to token shards; tokenizing.py writes them."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from vilg import config
from vilg.data.shards import expand
from vilg.data.token_manifest import Manifest, Part, TokenizationConfig, read_manifest
from vilg.data.token_part import TokenPart
from vilg.errors import UserError, os_reason
from vilg.progress import Progress

_OPEN = 4096  # files mapped at the same time; Linux allows 65,530 maps for a process
_THREADS = 4  # that hash files


@dataclass(frozen=True)
class TokenSample:
    """Codes uint [n] of one crop of an image, and token ids uint [m] of one of its captions. seed: as in `Sample`."""

    name: str
    codes: np.ndarray
    words: np.ndarray
    seed: int


class TokenShards:
    """All images of the folders `patterns`, in the order of the shards that they were made from.

    Raises UserError for an incomplete folder, and for a file that is missing or has another size. `find_damage` reads
    everything.
    """

    def __init__(self, patterns: list[str]):
        self.folders = {folder: read_manifest(folder) for folder in expand(patterns, "folder of token shards")}
        self._parts = [(folder, manifest, part) for folder, manifest in self.folders.items() for part in manifest.parts]
        for folder, _, part in self._parts:
            _check_size(folder / part.file, part.size)
        self._edges = np.cumsum([0, *(part.images for _, _, part in self._parts)])
        if not len(self):
            raise UserError(f"{patterns[0]}: no image in these token shards")
        self._opened = lru_cache(_OPEN)(self._open)

    def check_compatible(self, settings: config.Data, tokenizers: dict[str, str]) -> None:
        """Raise UserError unless a run with these settings would compute the same tokens.

        tokenizers: fingerprints of the run's tokenizers, {"text": .., "image": ..}.
        """
        for folder, manifest in self.folders.items():
            tokenization = manifest.recipe
            for kind, stored in (("image", tokenization.image_tokenizer), ("text", tokenization.vocabulary)):
                if stored["sha256"] != tokenizers[kind]:
                    raise UserError(
                        f"{folder}: token shards made with another {kind} tokenizer ({stored['path']}) than "
                        "these settings name"
                    )
            for name in ("image_size", "crop_jitter"):
                ours, stored = getattr(settings, name), getattr(tokenization, name)
                if ours != stored:
                    raise UserError(f"{folder}: token shards made with data.{name}={stored}, these settings say {ours}")

    def __len__(self) -> int:
        return int(self._edges[-1])

    def sample(self, number: int, rng: np.random.Generator) -> TokenSample:
        """A random crop and a random caption of an image, chosen by `rng`."""
        part, image, tokenization = self._at(number)
        chosen = part.codes(image, rng.integers(part.crops))
        captions = part.captions(image)
        words = part.token_ids(captions[rng.integers(len(captions))])
        if (
            chosen.max() >= tokenization.image_tokenizer["codes"]
            or words.max(initial=0) >= tokenization.vocabulary["entries"]
        ):
            raise UserError(f"{part.name(image)}: damaged token shards; `vilg data inspect` says which file")
        return TokenSample(part.name(image), chosen, words, int(rng.integers(2**63)))

    def read(self, number: int) -> tuple[str, np.ndarray, list[np.ndarray]]:
        """(name, codes uint [crops, n], token ids of each caption) of an image."""
        part, image, _ = self._at(number)
        return (
            part.name(image),
            np.stack([part.codes(image, crop) for crop in range(part.crops)]),
            [part.token_ids(caption) for caption in part.captions(image)],
        )

    def _at(self, number: int) -> tuple[TokenPart, int, TokenizationConfig]:
        """(file, index of the image in it, configuration)."""
        index = int(np.searchsorted(self._edges, number, "right")) - 1
        return self._opened(index), int(number - self._edges[index]), self._parts[index][1].recipe

    def _open(self, index: int) -> TokenPart:
        folder, _, expected = self._parts[index]
        part = TokenPart(folder / expected.file)
        if part.metadata["sha256"] != expected.sha256:
            raise UserError(f"{folder / expected.file}: not the file in the manifest")
        return part


def find_damage(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield a message for each file that is damaged. All files are read."""

    def problem(part: Part) -> str | None:
        file = folder / part.file
        try:
            _check_size(file, part.size)
            opened = TokenPart(file)
            if opened.metadata["sha256"] != part.sha256 or opened.digest() != part.sha256:
                return f"{file}: damaged, the arrays do not match the hash"
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(_THREADS) as threads, Progress("hashes", len(manifest.parts)) as progress:
        for message in threads.map(problem, manifest.parts):
            progress.advance()
            if message:
                yield message


def fingerprint(patterns: list[str]) -> dict:
    """{"shards": number of files, "sha256": ..}: a hash of their content in order, independent of the folder."""
    parts = [part for folder in expand(patterns, "folder of token shards") for part in read_manifest(folder).parts]
    digest = hashlib.sha256("\n".join(part.sha256 for part in parts).encode())
    return {"shards": len(parts), "sha256": digest.hexdigest()}


def _check_size(file: Path, expected: int) -> None:
    try:
        size = file.stat().st_size
    except OSError as error:
        raise UserError(f"{file}: {os_reason(error)}") from None
    if size != expected:
        raise UserError(f"{file}: {size} bytes, {expected} were written")
