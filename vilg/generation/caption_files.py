"""Implements `vilg caption`: captions image files, in batches and without keeping the images in memory."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vilg.data.images import to_unit
from vilg.errors import UserError
from vilg.files import os_errors
from vilg.generation.image_to_text import Caption
from vilg.generation.pipeline import MAX_ROWS, Pipeline
from vilg.generation.sampling import Sampler
from vilg.progress import Progress

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths`, and the image files in the folders among them, by name. Raises UserError."""
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        with os_errors(path):
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
        if not inside:
            raise UserError(f"{path}: no image in this folder")
        files += inside
    return files


def caption_files(
    pipeline: Pipeline,
    files: Sequence[Path],
    sampler: Sampler,
    beams: int = 0,
    length_penalty: float = 1.0,
    prefix: str = "",
    count: int = 1,
) -> Iterator[tuple[Path, list[Caption] | UserError]]:
    """Yield (file, `count` captions) for each image file, or (file, error) for one that cannot be read.

    Images are cropped and resized as in training, one after the other.
    """
    at_once = max(1, MAX_ROWS // max(1, beams, count))
    with Progress("captioning", len(files)) as progress:
        for batch in (files[first : first + at_once] for first in range(0, len(files), at_once)):
            pixels, problems = {}, {}
            for file in batch:
                try:
                    pixels[file] = pipeline.crop(file)
                except UserError as error:
                    problems[file] = error
            captions: dict[Path, list[Caption]] = {}
            if pixels:
                codes = pipeline.encode_images(to_unit(np.stack(list(pixels.values()))))
                rows = pipeline.caption_codes(codes, sampler, beams, length_penalty, prefix, count=count)
                captions = dict(zip(pixels, rows))
            for file in batch:
                yield file, problems.get(file) or captions[file]
            progress.advance(len(batch))
