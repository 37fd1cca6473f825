"""Implements `vilg generate`: what is requested, and the loop that generates it group by group."""

import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vilg.distributed.world import World
from vilg.errors import UserError, os_reason
from vilg.generation import metadata
from vilg.generation.pipeline import MAX_ROWS, GeneratedImages, Pipeline
from vilg.generation.ranking import Scorer
from vilg.generation.sampling import Sampler
from vilg.generation.writers import Writer
from vilg.progress import Progress


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate.

    - count: images for each text
    - best_of: generate this many and keep the best `count` (0: keep all)
    - scorer: MODULE:FUNCTION that ranks them; by default log p(text | image) of the model
    - guidance: scale of classifier-free guidance
    - image, keep_rows: complete this image, of which the upper `keep_rows` rows of codes are kept
    - truncate: truncate texts that are too long instead of refusing them
    """

    texts: list[str]
    count: int = 1
    best_of: int = 0
    guidance: float = 1.0
    image: Path | None = None
    keep_rows: int = 0
    scorer: str | None = None
    sampler: Sampler = field(default_factory=Sampler)
    truncate: bool = False

    def __post_init__(self):
        if not self.texts or not all(text.strip() for text in self.texts):
            raise UserError("--text: empty")
        if self.count < 1:
            raise UserError(f"-n {self.count}: must be at least 1")
        if (self.image is None) != (self.keep_rows == 0):
            raise UserError("--image and --keep-rows: use both or neither")

    @property
    def candidates(self) -> int:
        """Images that are generated for each text."""
        return max(self.count, self.best_of)


def read_texts(file: Path) -> list[str]:
    """The non-empty lines of a text file. Raises UserError."""
    try:
        return [line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a text file in UTF-8") from None
    except OSError as error:
        raise UserError(f"{file}: {os_reason(error)}") from None


def generate(
    pipeline: Pipeline, request: GenerationRequest, writer: Writer, world: World
) -> Iterator[tuple[str, GeneratedImages]]:
    """Generate images and write them. Yields (text, its images) as soon as they are written. Of several ranks, each
    generates its share, and all ranks call this.

    Everything that can be wrong with the request is reported before anything is generated. Texts are processed in
    groups, so that memory does not grow with their number.
    """
    with world.fail_together():
        scorer = load_scorer(request.scorer) if request.scorer else None
        pipeline.check_texts(request.texts, request.truncate)
        prefix = _prefix_codes(pipeline, request)
        one = _describe(pipeline, request, "", None)
        remaining = writer.start(one, pipeline.image_size) if world.is_rank_zero else []
    with world.fail_together():  # rank 0 has cleaned the folder now
        remaining = remaining if world.is_rank_zero else writer.start(one, pipeline.image_size)
    world.barrier()  # no rank may find texts of this run
    group, total = max(1, MAX_ROWS // request.candidates), -(-len(request.texts) // world.ranks)
    quiet = len(remaining) <= group or not world.is_rank_zero
    with Progress("texts", total, total - len(remaining), quiet=quiet) as progress:
        for numbers in (remaining[first : first + group] for first in range(0, len(remaining), group)):
            texts = [request.texts[number] for number in numbers]
            generated = pipeline.sample(
                texts,
                request.sampler,
                request.count,
                request.best_of,
                request.guidance,
                prefix,
                scorer,
                show_progress=len(remaining) <= group,
            )
            for row, (number, text) in enumerate(zip(numbers, texts)):
                of_text = replace(
                    generated,
                    codes=generated.codes[row : row + 1],
                    scores=None if generated.scores is None else generated.scores[row : row + 1],
                    samples=generated.samples[row : row + 1],
                )
                images = pipeline.decode_samples(of_text.codes)[0]
                writer.write(number, images, _describe(pipeline, request, text, of_text))
                yield text, of_text
            progress.advance(len(texts))
    writer.finish()


def _describe(pipeline: Pipeline, request: GenerationRequest, text: str, generated: GeneratedImages | None) -> dict:
    scores = None if generated is None or generated.scores is None else generated.scores[0].tolist()
    samples = np.zeros(0, int) if generated is None else generated.samples[0]
    return metadata.describe(
        pipeline,
        text,
        (request.sampler.seed + samples).tolist(),
        request.sampler,
        request.guidance,
        scores=scores,
        scorer=request.scorer,
        candidates=request.candidates,
        image=request.image,
        keep_rows=request.keep_rows,
    )


def load_scorer(name: str) -> Scorer:
    """The function MODULE:FUNCTION. The module is imported from the Python path or from the current folder. Raises
    UserError.
    """
    module, _, function = name.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        scorer = getattr(importlib.import_module(module), function)
    except Exception as error:  # importing a module can raise anything
        raise UserError(
            f"--scorer {name}: cannot be imported as MODULE:FUNCTION "
            f"({type(error).__name__}: {' '.join(str(error).split())})"
        ) from None
    if not callable(scorer):
        raise UserError(f"--scorer {name}: not a function")
    return scorer


def _prefix_codes(pipeline: Pipeline, request: GenerationRequest) -> np.ndarray | None:
    """The codes int64 [k] that the generated images begin with."""
    if request.image is None:
        return None
    height, width = pipeline.decoding_model.grid
    if not 0 < request.keep_rows < height:
        raise UserError(f"--keep-rows {request.keep_rows}: must be between 1 and {height - 1}, of {height} rows")
    return pipeline.encode_images(request.image)[0, : request.keep_rows * width]
