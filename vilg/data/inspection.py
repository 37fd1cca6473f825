"""Implements `vilg data inspect`: the content of a shard or of a folder of token shards."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from vilg import config, image
from vilg.arrays import to_numpy
from vilg.data import decode, images
from vilg.data.bad_samples import BadSampleError, BadSamples
from vilg.data.images import to_unit
from vilg.data.shards import Record, Shards
from vilg.data.token_manifest import Manifest, read_manifest
from vilg.data.token_shards import TokenShards, find_damage
from vilg.errors import UserError
from vilg.text.tokenizer import load_tokenizer

log = logging.getLogger(__name__)

_CAPTIONED = 3  # samples whose captions are printed
_PICTURED = 16  # images of a contact sheet
_PIXELS = 128  # side of an image on it


@dataclass(frozen=True)
class TokenizerPaths:
    """Where the tokenizers of token shards are, if not where the manifest says."""

    image: str | None = None
    vocabulary: str | None = None


def describe(path: Path, tokenizers: TokenizerPaths) -> Iterator[tuple[str, bool]]:
    """Yield (line, ok): counts, sizes, some captions, and everything that is wrong."""
    yield from _describe_tokens(path, tokenizers) if path.is_dir() else _describe_tar(path)


def sample_images(path: Path, tokenizers: TokenizerPaths) -> tuple[np.ndarray, int]:
    """Images from all parts of a tar, or reconstructed from the codes of token shards.

    Returns ([N, 3, H, W] in [0, 1], number of crops of each image).
    """
    if not path.is_dir():
        usable = [picture for _, picture in islice(_usable(_open(path)), _PICTURED)]
        return to_unit(np.stack([images.center_crop(picture, _PIXELS) for picture in usable])), 1
    import paddle

    tokenization, tokens = read_manifest(path).recipe, TokenShards([str(path)])
    where = tokenizers.image or tokenization.image_tokenizer["path"]
    tokenizer = image.load(where)
    _check_tokenizer(where, tokenizer, tokenization.image_tokenizer, path)
    codes = np.concatenate([tokens.read(number)[1] for number in _evenly_spaced(len(tokens), _PICTURED)]).astype(
        np.int64
    )
    with paddle.no_grad():
        decoded = tokenizer.decode(paddle.to_tensor(codes.reshape(-1, *tokenization.image_tokenizer["grid"])))
    return to_numpy(decoded), tokenization.crops


def _open(tar: Path) -> Shards:
    return Shards([tar], BadSamples(limit=2**63))


def _usable(shards: Shards) -> Iterator[tuple[Record, Image.Image]]:
    """(record, image) of all samples that are not broken."""
    for number in range(len(shards)):
        try:
            record = shards[number]
            yield record, decode.decode_image(record)
        except BadSampleError as fault:
            log.warning("%s: %s", shards.name(number), fault)


def _describe_tar(tar: Path) -> Iterator[tuple[str, bool]]:
    shards = _open(tar)
    index = shards.indices[0]
    yield f"{tar}: {len(index)} samples, {len(shards)} with image and caption, {tar.stat().st_size / 1e6:.1f} MB", True
    if index.truncated:
        yield "  the tar is truncated", False
    for record, picture in islice(_usable(shards), _CAPTIONED):
        try:
            captions = " / ".join(decode.decode_captions(record))
        except BadSampleError as fault:
            captions = str(fault)
        yield f"  {Path(record.name).name}  {picture.width} x {picture.height}  {captions}", True


def _describe_tokens(folder: Path, tokenizers: TokenizerPaths) -> Iterator[tuple[str, bool]]:
    manifest = read_manifest(folder)
    tokenization = manifest.recipe
    images, captions, size = (manifest.total(what) for what in ("images", "captions", "size"))
    height, width = tokenization.image_tokenizer["grid"]
    yield (
        (
            f"{folder}: {images} images x {tokenization.crops} crops x {height} x {width} codes, {captions} captions; "
            f"{len(manifest.parts)} files, {size / 1e6:.1f} MB: {size / max(1, images):.0f} bytes an image, "
            f"{size / max(1, captions):.0f} a pair"
        ),
        True,
    )
    yield (
        (
            f"  of {tokenization.source['samples']} images in {tokenization.source['shards']} shards, "
            f"{tokenization.image_size} pixels, crop_jitter {tokenization.crop_jitter}"
        ),
        True,
    )
    yield "  image tokenizer {kind}, {codes} codes, {sha256:.12} ({path})".format(**tokenization.image_tokenizer), True
    yield "  vocabulary {tokenizer}, {entries} entries, {sha256:.12} ({path})".format(**tokenization.vocabulary), True
    skipped = [name for part in manifest.parts for name in part.skipped]
    if skipped:
        yield f"  {len(skipped)} broken and skipped: {', '.join(skipped)}", True
    bad = list(find_damage(folder, manifest))
    if bad:
        yield from ((f"  {problem}", False) for problem in bad)
        return
    yield "  all files have the hashes in the manifest", True
    yield from ((line, True) for line in _captions(folder, manifest, tokenizers))


def _captions(folder: Path, manifest: Manifest, tokenizers: TokenizerPaths) -> Iterator[str]:
    vocabulary, tokens = manifest.recipe.vocabulary, TokenShards([str(folder)])
    where = tokenizers.vocabulary or vocabulary["path"]
    try:
        tokenizer = load_tokenizer(config.Text(vocabulary["tokenizer"], where))
        _check_tokenizer(where, tokenizer, vocabulary, folder)
    except UserError as error:
        yield f"  captions cannot be read: {error}"
        return
    for number in _evenly_spaced(len(tokens), _CAPTIONED):
        name, _, captions = tokens.read(number)
        yield f"  {name}  {' / '.join(tokenizer.decode(words.tolist()) for words in captions)}"


def _check_tokenizer(where: str, tokenizer, vocabulary: dict, folder: Path) -> None:
    if tokenizer.fingerprint() != vocabulary["sha256"]:
        raise UserError(f"{where}: not the tokenizer that the token shards in {folder} were made with")


def _evenly_spaced(count: int, limit: int) -> range:
    """At most `wanted` indices below `count`, evenly spaced."""
    return range(0, count, max(1, -(-count // limit)))
