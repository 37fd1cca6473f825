"""The two tasks of the server: generating images and captioning."""

import math
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from vilg.data.images import to_uint8
from vilg.generation.beam import beam_search
from vilg.generation.pipeline import Pipeline
from vilg.generation.sampling import PerSampleSampler, Sampler
from vilg.generation.text_to_image import Guidance, generate_codes_stepwise
from vilg.serving.batching import ProgressEvent
from vilg.text.sequence import CaptionEncoder

_GREY = 128  # of cells that are not generated yet
_BETWEEN = 0.15  # minimum seconds between two previews
_SHARE = 0.2  # share of the time for previews


@dataclass(frozen=True)
class ImageProgress:
    """Images uint8 [n, H, W, 3], of which `done` of `total` codes have been generated."""

    pixels: np.ndarray
    done: int
    total: int


@dataclass(frozen=True)
class ImageTask:
    """Generate `count` images for a text. Image i uses the sampler's seed + i, whatever else is in the batch."""

    text: str
    count: int
    sampler: Sampler
    guidance: float

    @property
    def kind(self) -> Hashable:
        return "text_to_image", self.guidance

    @property
    def rows(self) -> int:
        return self.count

    @staticmethod
    def run_batch(pipeline: Pipeline, tasks: Sequence["ImageTask"]) -> Iterator[list[ProgressEvent | None]]:
        """Partial results from time to time, and the final ones."""
        model, encode = (
            pipeline.decoding_model,
            CaptionEncoder(pipeline.text_tokenizer, pipeline.decoding_model.text_length),
        )
        samples = math.gcd(*(task.count for task in tasks))  # all sources in a batch need equally many
        rows = [
            (encode(task.text), replace(task.sampler, seed=task.sampler.seed + first))
            for task in tasks
            for first in range(0, task.count, samples)
        ]
        ids, samplers = zip(*rows)
        ends = np.cumsum([task.count for task in tasks])[:-1]
        total, pace = math.prod(model.grid), _PreviewPacing()
        guidance = Guidance(tasks[0].guidance, encode(""))
        for codes in generate_codes_stepwise(model, np.stack(ids), PerSampleSampler(samplers), samples, guidance):
            done = codes.shape[1]
            if done == total or pace.due():
                with pace:
                    parts = np.split(_render_preview(pipeline, codes), ends)
                yield [ProgressEvent(ImageProgress(part, done, total), done == total) for part in parts]
            else:
                yield [None] * len(tasks)


@dataclass(frozen=True)
class CaptionTask:
    """The `beams` best captions of an image, or with one beam the greedy one."""

    picture: Image.Image
    beams: int

    @property
    def kind(self) -> Hashable:
        return "image_to_text", self.beams

    @property
    def rows(self) -> int:
        return self.beams

    @staticmethod
    def run_batch(pipeline: Pipeline, tasks: Sequence["CaptionTask"]) -> Iterator[list[ProgressEvent | None]]:
        """(caption, probability) for each task, best first. probability: geometric mean of the token
        probabilities. Images are processed together.
        """
        codes, beams = pipeline.encode_images([task.picture for task in tasks]), tasks[0].beams
        if beams == 1:
            yield [
                ProgressEvent([(best.text, math.exp(best.log_likelihood / (best.tokens + 1)))], last=True)
                for (best,) in pipeline.caption_codes(codes, Sampler(greedy=True))
            ]
            return
        yield [
            ProgressEvent(
                [(pipeline.text_tokenizer.decode(ids), math.exp(score)) for score, ids in candidates], last=True
            )
            for candidates in beam_search(pipeline.decoding_model, codes, pipeline.text_tokenizer, beams)
        ]


def _render_preview(pipeline: Pipeline, codes: np.ndarray) -> np.ndarray:
    """Images uint8 [B, H, W, 3] of the codes so far, int64 [B, k], with missing parts in grey."""
    height, width = pipeline.decoding_model.grid
    padded = np.zeros([len(codes), height * width], np.int64)
    padded[:, : codes.shape[1]] = codes
    pixels = to_uint8(pipeline.decode(padded.reshape([-1, height, width])))
    generated = (np.arange(height * width) < codes.shape[1]).reshape([height, width])
    cell = [size // side for size, side in zip(pixels.shape[1:3], (height, width))]
    pixels[:, ~np.kron(generated, np.ones(cell, bool))] = _GREY
    return pixels


class _PreviewPacing:
    """Decides when to render previews: regularly, but only for a limited share of the time."""

    def __init__(self):
        self._next = self._began = 0.0

    def due(self) -> bool:
        return time.monotonic() >= self._next

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_) -> None:
        now = time.monotonic()
        self._next = now + max(_BETWEEN, (now - self._began) * (1 / _SHARE - 1))
