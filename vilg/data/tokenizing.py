"""Implements `vilg data tokenize`: encodes all images and captions of shards once.

The images of `data.shards` are divided into parts of `tokenize.images_per_file`. Part i becomes file i and depends only
on the configuration, so any rank can write it at any time. Files are published atomically and never written again; an
interrupted process loses only its current part. Ranks take turns in the parts without communicating, and the rank that
finds all parts complete writes the manifest.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import paddle

from vilg import config, image
from vilg.arrays import to_numpy
from vilg.config import LONGEST_TEXT, require
from vilg.data import decode, images
from vilg.data.bad_samples import BadSampleError, BadSamples
from vilg.data.images import to_unit
from vilg.data.sampling_order import prefetch_ordered
from vilg.data.shards import Shards, expand, fingerprint
from vilg.data.token_manifest import (
    MANIFEST,
    VERSION,
    Manifest,
    Part,
    TokenizationConfig,
    part_file,
    read_manifest,
    read_part,
)
from vilg.data.token_part import Tokens, pack, write_part
from vilg.distributed.world import independent_rank
from vilg.errors import UserError
from vilg.image.tokenizer import ImageTokenizer
from vilg.progress import Progress
from vilg.text.sequence import encode_caption, max_caption_tokens
from vilg.text.tokenizer import TextTokenizer, load_tokenizer

log = logging.getLogger(__name__)

_WORDS = (
    max_caption_tokens(LONGEST_TEXT) + 1
)  # tokens kept of a caption: one more than any run reads, so that truncation is counted


@dataclass(frozen=True)
class TokenizeResult:
    """What this process did: `images` encoded in `seconds`. manifest: set if all parts are complete."""

    images: int
    seconds: float
    manifest: Manifest | None


def tokenize(settings: config.Pretraining) -> TokenizeResult:
    """Write the missing parts of this rank's share of the folder `data.tokens`. All ranks call this.

    Raises UserError if the folder has token shards of other settings, tokenizers or images.
    """
    rank, ranks = independent_rank()
    require(
        len(settings.data.tokens) == 1,
        f"data.tokens={settings.data.tokens}: has to name exactly one folder, to which token shards are written",
    )
    folder = Path(settings.data.tokens[0])
    writer = TokenShardWriter(settings)
    parts = range(-(-len(writer.shards) // settings.tokenize.images_per_file))
    todo = [number for number in parts[rank::ranks] if writer.finished_part(folder, number) is None]
    folder.mkdir(parents=True, exist_ok=True)
    began, images = time.perf_counter(), 0
    with Progress("tokenize", sum(len(writer.image_range(number)) for number in todo), quiet=rank > 0) as progress:
        for number in todo:
            rows = []
            for batch in writer.encode_part(number):
                rows += batch
                progress.advance(len(batch))
            progress.advance(len(writer.image_range(number)) - len(rows))  # skipped samples
            writer.write(folder, number, rows)
            images += len(rows)
    return TokenizeResult(images, time.perf_counter() - began, _finish(folder, writer, len(parts)))


def _finish(folder: Path, writer: "TokenShardWriter", count: int) -> Manifest | None:
    """Write the manifest if all parts are complete and it does not exist. Returns it, or None."""
    finished = [writer.finished_part(folder, number) for number in range(count)]
    parts = [part for part in finished if part is not None]
    if len(parts) < count:
        return None
    if not (folder / MANIFEST).exists():
        try:
            Manifest(VERSION, writer.tokenization, parts).write(folder)
        except UserError:
            if not (folder / MANIFEST).exists():  # otherwise another rank has written it already
                raise
    for leftover in (*folder.glob(".part-*.safetensors.*"), *folder.glob(f".{MANIFEST}.*")):  # of killed processes
        leftover.unlink(missing_ok=True)
    manifest = read_manifest(folder)
    if manifest.parts != parts:
        raise UserError(f"{folder}: the files are not those that {MANIFEST} names")
    return manifest


class TokenShardWriter:
    """Writes any part of the token shards for some settings."""

    def __init__(self, settings: config.Pretraining):
        data, self.settings = settings.data, settings.tokenize
        require(
            self.settings.crops == 1 or data.crop_jitter > 0,
            f"tokenize.crops={self.settings.crops}: all crops of an image are equal without data.crop_jitter",
        )
        self.image_tokenizer = image.load(settings.image_tokenizer.path)
        self.text_tokenizer = load_tokenizer(settings.text)
        self.bad_samples, self.threads = BadSamples(data.max_bad_samples), data.threads
        self.shards = Shards(expand(data.shards), self.bad_samples)
        self._broken: set[int] = set()
        self.tokenization = TokenizationConfig(
            _describe_image_tokenizer(self.image_tokenizer, settings),
            _describe_text_tokenizer(self.text_tokenizer, settings.text),
            {"samples": len(self.shards), **fingerprint(data.shards)},
            data.image_size,
            data.crop_jitter,
            self.settings.crops,
            settings.run.seed,
            self.settings.images_per_file,
        )

    def finished_part(self, folder: Path, number: int) -> Part | None:
        """The description of an existing file, or None. Raises UserError if it has another configuration."""
        stored = read_part(folder, number)
        if stored is None:
            return None
        tokenization, part = stored
        if other := self.tokenization.difference(tokenization):
            raise UserError(
                f"{folder / part_file(number)}: made with another {other} than these settings name; use another folder"
            )
        return part

    def image_range(self, number: int) -> range:
        return range(len(self.shards))[
            number * self.settings.images_per_file : (number + 1) * self.settings.images_per_file
        ]

    def encode_part(self, number: int) -> Iterator[list[Tokens]]:
        """Encode the images of a part in batches. Broken samples are skipped."""
        at_once = max(1, self.settings.batch_size // self.settings.crops)
        for batch in prefetch_ordered(self._read, self.image_range(number), at_once, self.threads):
            codes = self._encode(np.concatenate([crops for _, crops, _ in batch]))
            yield [Tokens(name, own, captions) for (name, _, captions), own in zip(batch, np.split(codes, len(batch)))]

    def write(self, folder: Path, number: int, images: list[Tokens]) -> None:
        codes, grid = (self.tokenization.image_tokenizer[name] for name in ("codes", "grid"))
        arrays = pack(images, (self.settings.crops, grid[0] * grid[1]), codes, self.text_tokenizer.vocab_size)
        skipped = [self._name(position) for position in self.image_range(number) if position in self._broken]
        write_part(
            folder / part_file(number),
            arrays,
            {
                "recipe": asdict(self.tokenization),
                "images": len(images),
                "skipped": skipped,
                "captions": sum(len(tokens.captions) for tokens in images),
            },
        )

    def _name(self, number: int) -> str:
        """SHARD:KEY without the folder, which may change."""
        return Path(self.shards.name(number)).name

    def _read(self, number: int) -> tuple[str, np.ndarray, list[list[int]]] | None:
        """(name, crops uint8 [crops, size, size, 3], the words of each caption) of an image; None if it is broken."""
        try:
            record = self.shards[number]
            picture, captions = decode.decode_image(record), decode.decode_captions(record)
        except BadSampleError as fault:
            self.bad_samples.add(self.shards.name(number), str(fault))
            self._broken.add(number)
            return None
        tokenization = self.tokenization
        rng = np.random.default_rng([tokenization.seed, number])
        crops = [
            images.random_crop(picture, tokenization.image_size, tokenization.crop_jitter, rng)
            if tokenization.crop_jitter
            else images.center_crop(picture, tokenization.image_size)
            for _ in range(tokenization.crops)
        ]
        return (
            self._name(number),
            np.stack(crops),
            [encode_caption(caption, self.text_tokenizer)[:_WORDS] for caption in captions],
        )

    @paddle.no_grad()
    def _encode(self, crops: np.ndarray) -> np.ndarray:
        """uint8 [N, size, size, 3] -> codes [N, n]."""
        parts = [
            self.image_tokenizer.encode(paddle.to_tensor(to_unit(crops[start : start + self.settings.batch_size])))
            for start in range(0, len(crops), self.settings.batch_size)
        ]
        return np.concatenate([to_numpy(part.flatten(1)) for part in parts])


def _describe_image_tokenizer(tokenizer: ImageTokenizer, settings: config.Pretraining) -> dict:
    return {
        "kind": tokenizer.kind,
        "path": settings.image_tokenizer.path,
        "codes": tokenizer.codebook_size,
        "grid": list(tokenizer.grid(settings.data.image_size)),
        "sha256": tokenizer.fingerprint(),
    }


def _describe_text_tokenizer(tokenizer: TextTokenizer, settings: config.Text) -> dict:
    return {
        "tokenizer": settings.tokenizer,
        "path": settings.vocab,
        "entries": tokenizer.vocab_size,
        "sha256": tokenizer.fingerprint(),
    }
