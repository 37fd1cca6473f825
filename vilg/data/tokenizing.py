"""Making token shards: every image is encoded once, and every caption.

The images of `data.shards` are cut into parts of `tokenize.part`; part i makes file i and follows from the recipe
alone, so it does not matter who makes it, and when. A file is published whole, and says what it was made by: what is
there is never made again, and a process that is killed leaves no more than the part it was at undone. Ranks take turns
in the parts and say nothing to each other; the one that finds all parts done writes the manifest.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import paddle

from vilg import config, image
from vilg.config import LONGEST_TEXT, require
from vilg.data import crop, decode
from vilg.data.faults import BrokenSample, Faults
from vilg.data.order import read_once
from vilg.data.pixels import to_unit
from vilg.data.shards import Shards, expand, fingerprint
from vilg.data.token_manifest import MANIFEST, VERSION, Manifest, Part, Recipe, part_file, read_manifest, read_part
from vilg.data.token_part import Tokens, pack, write_part
from vilg.distributed.world import apart
from vilg.errors import UserError
from vilg.image.tokenizer import ImageTokenizer
from vilg.progress import Progress
from vilg.text.sequence import longest_caption, words_of
from vilg.text.tokenizer import TextTokenizer, load_tokenizer

log = logging.getLogger(__name__)

_WORDS = longest_caption(LONGEST_TEXT) + 1  # of a caption: no run reads more, and one too many is counted as cut


@dataclass(frozen=True)
class Made:
    """What this process has done: `images` encoded in `seconds`; `manifest` where all ranks have done theirs."""

    images: int
    seconds: float
    manifest: Manifest | None


def tokenize(settings: config.Pretraining) -> Made:
    """Make what is not yet made of this rank's share of the folder that `data.tokens` names; every rank calls this.

    UserError if the folder holds tokens that other settings, tokenizers or images make.
    """
    rank, ranks = apart()
    require(
        len(settings.data.tokens) == 1,
        f"data.tokens={settings.data.tokens}: names the one folder that the token shards are written to",
    )
    folder = Path(settings.data.tokens[0])
    maker = Maker(settings)
    numbers = range(-(-len(maker.shards) // settings.tokenize.part))
    todo = [number for number in numbers[rank::ranks] if maker.made(folder, number) is None]
    folder.mkdir(parents=True, exist_ok=True)
    began, images = time.perf_counter(), 0
    with Progress("tokenize", sum(len(maker.images_of(number)) for number in todo), quiet=rank > 0) as progress:
        for number in todo:
            made = []
            for batch in maker.make(number):
                made += batch
                progress.advance(len(batch))
            progress.advance(len(maker.images_of(number)) - len(made))  # the broken ones
            maker.write(folder, number, made)
            images += len(made)
    return Made(images, time.perf_counter() - began, _finish(folder, maker, len(numbers)))


def _finish(folder: Path, maker: "Maker", count: int) -> Manifest | None:
    """The manifest, if every part is there; written unless it is there already."""
    parts = [maker.made(folder, number) for number in range(count)]
    if None in parts:
        return None
    if not (folder / MANIFEST).exists():
        try:
            Manifest(VERSION, maker.recipe, parts).write(folder)
        except UserError:
            if not (folder / MANIFEST).exists():  # else another rank was faster, and has cleared away
                raise
    for leftover in (*folder.glob(".part-*.safetensors.*"), *folder.glob(f".{MANIFEST}.*")):  # of the killed
        leftover.unlink(missing_ok=True)
    manifest = read_manifest(folder)
    if manifest.parts != parts:
        raise UserError(f"{folder}: the files are not those that {MANIFEST} names")
    return manifest


class Maker:
    """Makes any part of the token shards of these settings."""

    def __init__(self, settings: config.Pretraining):
        data, self.settings = settings.data, settings.tokenize
        require(
            self.settings.crops == 1 or data.crop_jitter > 0,
            f"tokenize.crops={self.settings.crops}: without data.crop_jitter all crops of an image are the same",
        )
        self.image_tokenizer = image.load(settings.image_tokenizer.path)
        self.text_tokenizer = load_tokenizer(settings.text)
        self.faults, self.threads = Faults(data.max_faults), data.threads
        self.shards, self._broken = Shards(expand(data.shards), self.faults), set()
        self.recipe = Recipe(
            _said_of_images(self.image_tokenizer, settings),
            _said_of_texts(self.text_tokenizer, settings.text),
            {"samples": len(self.shards), **fingerprint(data.shards)},
            data.image_size,
            data.crop_jitter,
            self.settings.crops,
            settings.run.seed,
            self.settings.part,
        )

    def made(self, folder: Path, number: int) -> Part | None:
        """What the file of a part says of itself, None if there is none. UserError if another recipe made it."""
        found = read_part(folder, number)
        if found is None:
            return None
        recipe, part = found
        if other := self.recipe.difference(recipe):
            raise UserError(
                f"{folder / part_file(number)}: made with another {other} than these settings name; they "
                "need a folder of their own"
            )
        return part

    def images_of(self, number: int) -> range:
        return range(len(self.shards))[number * self.settings.part : (number + 1) * self.settings.part]

    def make(self, number: int) -> Iterator[list[Tokens]]:
        """The images of a part, batch by batch; broken ones are faults."""
        at_once = max(1, self.settings.batch // self.settings.crops)
        for batch in read_once(self._read, self.images_of(number), at_once, self.threads):
            codes = self._encode(np.concatenate([crops for _, crops, _ in batch]))
            yield [Tokens(name, own, captions) for (name, _, captions), own in zip(batch, np.split(codes, len(batch)))]

    def write(self, folder: Path, number: int, images: list[Tokens]) -> None:
        codes, grid = (self.recipe.image_tokenizer[name] for name in ("codes", "grid"))
        arrays = pack(images, (self.settings.crops, grid[0] * grid[1]), codes, self.text_tokenizer.size)
        skipped = [self._name(one) for one in self.images_of(number) if one in self._broken]
        write_part(
            folder / part_file(number),
            arrays,
            {
                "recipe": asdict(self.recipe),
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
            picture, captions = decode.picture(record), decode.captions(record)
        except BrokenSample as fault:
            self.faults.add(self.shards.name(number), str(fault))
            self._broken.add(number)
            return None
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, number])
        crops = [
            crop.jittered(picture, recipe.image_size, recipe.crop_jitter, rng)
            if recipe.crop_jitter
            else crop.centre(picture, recipe.image_size)
            for _ in range(recipe.crops)
        ]
        return (
            self._name(number),
            np.stack(crops),
            [words_of(caption, self.text_tokenizer)[:_WORDS] for caption in captions],
        )

    @paddle.no_grad()
    def _encode(self, crops: np.ndarray) -> np.ndarray:
        """uint8 [N, size, size, 3] -> codes [N, n]."""
        parts = [
            self.image_tokenizer.encode(paddle.to_tensor(to_unit(crops[start : start + self.settings.batch])))
            for start in range(0, len(crops), self.settings.batch)
        ]
        return np.concatenate([part.flatten(1).numpy() for part in parts])


def _said_of_images(tokenizer: ImageTokenizer, settings: config.Pretraining) -> dict:
    return {
        "kind": tokenizer.kind,
        "path": settings.image_tokenizer.path,
        "codes": tokenizer.vocabulary,
        "grid": list(tokenizer.grid(settings.data.image_size)),
        "sha256": tokenizer.fingerprint(),
    }


def _said_of_texts(tokenizer: TextTokenizer, settings: config.Text) -> dict:
    return {
        "tokenizer": settings.tokenizer,
        "path": settings.vocab,
        "entries": tokenizer.size,
        "sha256": tokenizer.fingerprint(),
    }
