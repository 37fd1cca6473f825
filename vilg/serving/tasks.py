"""The two things one asks a server for, and how many of them are done at once."""

import math
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from vilg.data.pixels import to_uint8
from vilg.generation.beam import beam_search
from vilg.generation.drawing import Guidance, drawing
from vilg.generation.pipeline import Pipeline
from vilg.generation.sampling import EachItsOwn, Sampler
from vilg.serving.batching import News
from vilg.text.sequence import CaptionEncoder

_GREY = 128  # of cells that are not drawn yet
_BETWEEN = 0.15  # seconds between two looks at unfinished drawings, at least
_SHARE = 0.2  # of the time may go into such looks


@dataclass(frozen=True)
class Pictures:
    """uint8 [n, H, W, 3], of which `done` codes of `total` are drawn."""

    pixels: np.ndarray
    done: int
    total: int


@dataclass(frozen=True)
class Drawing:
    """`count` pictures of a text; picture i is drawn with the sampler's seed + i, whatever else is in the batch."""

    text: str
    count: int
    sampler: Sampler
    guidance: float

    @property
    def kind(self) -> Hashable:
        return "drawing", self.guidance

    @property
    def rows(self) -> int:
        return self.count

    @staticmethod
    def together(pipeline: Pipeline, tasks: list["Drawing"]) -> Iterator[list[News | None]]:
        """Unfinished Pictures now and then, and the finished ones."""
        reader, encode = pipeline.reader, CaptionEncoder(pipeline.text_tokenizer, pipeline.reader.text_length)
        samples = math.gcd(*(task.count for task in tasks))  # each source of a reading has as many
        rows = [
            (encode(task.text), replace(task.sampler, seed=task.sampler.seed + first))
            for task in tasks
            for first in range(0, task.count, samples)
        ]
        ids, samplers = zip(*rows)
        ends = np.cumsum([task.count for task in tasks])[:-1]
        total, pace = math.prod(reader.grid), _Pace()
        guidance = Guidance(tasks[0].guidance, encode(""))
        for codes in drawing(reader, np.stack(ids), EachItsOwn(samplers), samples, guidance):
            done = codes.shape[1]
            if done == total or pace.due():
                with pace:
                    parts = np.split(_look(pipeline, codes), ends)
                yield [News(Pictures(part, done, total), done == total) for part in parts]
            else:
                yield [None] * len(tasks)


@dataclass(frozen=True)
class Describing:
    """The `beams` best captions of a picture, or with one beam the greedy one."""

    picture: Image.Image
    beams: int

    @property
    def kind(self) -> Hashable:
        return "describing", self.beams

    @property
    def rows(self) -> int:
        return self.beams

    @staticmethod
    def together(pipeline: Pipeline, tasks: list["Describing"]) -> Iterator[list[News | None]]:
        """(caption, probability) of each, the best first: the geometric mean of its words' probabilities, or None for a
        greedy one. Pictures are encoded, and their captions written or searched for, side by side."""
        codes, beams = pipeline.codes_of([task.picture for task in tasks]), tasks[0].beams
        if beams == 1:
            yield [News([(text, None)], last=True) for text in pipeline.describe(codes, Sampler(greedy=True))]
            return
        yield [
            News([(pipeline.text_tokenizer.decode(words), math.exp(score)) for score, words in found], last=True)
            for found in beam_search(pipeline.reader, codes, pipeline.text_tokenizer, beams)
        ]


def _look(pipeline: Pipeline, codes: np.ndarray) -> np.ndarray:
    """The pictures, uint8 [B, H, W, 3], of the codes so far, int64 [B, k], with grey where there are none."""
    height, width = pipeline.reader.grid
    whole = np.zeros([len(codes), height * width], np.int64)
    whole[:, : codes.shape[1]] = codes
    pixels = to_uint8(pipeline.decode(whole.reshape([-1, height, width])))
    drawn = (np.arange(height * width) < codes.shape[1]).reshape([height, width])
    cell = [size // side for size, side in zip(pixels.shape[1:3], (height, width))]
    pixels[:, ~np.kron(drawn, np.ones(cell, bool))] = _GREY
    return pixels


class _Pace:
    """When to look at unfinished drawings: as often as it pleases the eye, unless that takes too much of the time."""

    def __init__(self):
        self._next = self._began = 0.0

    def due(self) -> bool:
        return time.monotonic() >= self._next

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_) -> None:
        now = time.monotonic()
        self._next = now + max(_BETWEEN, (now - self._began) * (1 / _SHARE - 1))
