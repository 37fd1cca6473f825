"""A model with its tokenizers: from texts to pictures, from pictures to texts, and how well the two fit."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from vilg.data import crop
from vilg.data.decode import on_white
from vilg.data.pixels import to_unit
from vilg.errors import UserError
from vilg.generation.beam import beam_search
from vilg.generation.captioning import caption
from vilg.generation.drawing import Guidance, draw
from vilg.generation.ranking import Judge, best, log_likelihood
from vilg.generation.reader import Reader
from vilg.generation.sampling import SEEDS, Sampler
from vilg.progress import Progress
from vilg.text.sequence import CaptionEncoder, longest_caption, words_of
from vilg.text.tokenizer import TextTokenizer

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 32  # continuations that are decoded together: each has caches of its own
MOST_DRAWINGS = 10_000  # of a text, whose codes and pictures are kept until the last is drawn
MOST_BEAMS = 1_000  # of an image: each has caches of its own, and all are decoded together

Images = np.ndarray | Sequence[Image.Image]


@dataclass(frozen=True)
class Drawn:
    """What was drawn of each of P texts, the best first where some were left out.

    codes int64 [P, n, h, w]; scores float64 [P, n]: log p(text | image) in nats, or the judge's, None if nobody asked
    for them; samples int64 [P, n]:
    the number of each among those drawn of its text, so that seed + number draws it again alone.
    """

    codes: np.ndarray
    scores: np.ndarray | None
    samples: np.ndarray


class Pipeline(ABC):
    """What is common to a checkpoint (generation/trained.py) and an export (export/predictor.py)."""

    reader: Reader
    text_tokenizer: TextTokenizer
    image_size: int  # pixels a side
    origin: str  # the folder it came from
    checkpoint: str  # what its weights are
    drop_caption: float | None  # share of empty captions in its training; None if that is not known

    @abstractmethod
    def encode(self, images: np.ndarray) -> np.ndarray:
        """float32 [B, 3, H, W] in [0, 1] -> codes int64 [B, h, w]."""

    @abstractmethod
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes int64 [B, h, w] -> float32 [B, 3, H, W] in [0, 1]."""

    def generate(
        self,
        texts: Sequence[str],
        n: int = 1,
        seed: int = 0,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        greedy: bool = False,
        guidance: float = 1.0,
        best_of: int = 0,
    ) -> np.ndarray:
        """`n` pictures of each text, float32 [len(texts), n, 3, H, W] in [0, 1].

        Picture i of seed s is picture 0 of seed s + i. `best_of` draws so many and keeps those that score best.
        """
        sampler = Sampler(seed, temperature, top_k, greedy, top_p)
        return self.pictures(self.draw(texts, sampler, n, best_of, guidance, scored=best_of > n).codes)

    def caption(
        self,
        images: Images,
        seed: int | None = None,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        greedy: bool | None = None,
        beams: int = 0,
        length_penalty: float = 1.0,
        prefix: str = "",
    ) -> list[str]:
        """A text for each image that begins with `prefix`: with `beams` the best that a search of that width finds; of
        sampled words where a seed or another setting of chance is given, or `greedy` is False; else of the likeliest.
        Images as in `score`."""
        if greedy is None:
            greedy = seed is None and (temperature, top_k, top_p) == (1.0, 0, 1.0)
        sampler = Sampler(seed or 0, temperature, top_k, greedy, top_p)
        return self.describe(self.codes_of(images), sampler, beams, length_penalty, prefix)

    def score(self, images: Images, texts: Sequence[str]) -> np.ndarray:
        """log p(text | image) of each pair in nats, float64 [B]; the higher, the better they fit.

        Images are a float32 array [B, 3, size, size] in [0, 1], or pictures of any size, which are cut to the largest
        centred square as in training.
        """
        if len(images) != len(texts):
            raise UserError(f"{len(images)} images and {len(texts)} texts")
        return self._scores(self._ids(texts), self.codes_of(images))

    def draw(
        self,
        texts: Sequence[str],
        sampler: Sampler,
        n: int = 1,
        best_of: int = 0,
        guidance: float = 1.0,
        begun: np.ndarray | None = None,
        judge: Judge | None = None,
        scored: bool = True,
        show_progress: bool = False,
    ) -> Drawn:
        """Codes of `n` drawings of each text, which begin with the codes `begun` int64 [k] if given.

        `best_of` > n draws so many of each and keeps those that `judge`, or log p(text | image), finds best.
        """
        if n < 1:
            raise UserError(f"-n {n}: must be at least 1")
        if best_of and best_of < n:
            raise UserError(f"--best-of {best_of}: fewer than the {n} to keep")
        if (drawn := max(n, best_of)) > MOST_DRAWINGS:
            raise UserError(f"{'--best-of' if best_of else '-n'} {drawn}: at most {MOST_DRAWINGS} drawings of a text")
        if sampler.seed + drawn > SEEDS:
            raise UserError(f"--seed {sampler.seed}: the seeds of {drawn} drawings go beyond 2^63 - 1")
        if guidance != 1 and self.drop_caption == 0:
            log.warning(
                "--guidance %g: this model has never met an empty caption; train with train.drop_caption=0.1", guidance
            )
        ids, (height, width) = self._ids(texts), self.reader.grid
        codes = self._drawings(ids, sampler, drawn, guidance, begun, show_progress)
        if judge:
            scores = np.stack(
                [judged(judge, [text] * drawn, self.pictures(of_text[None])[0]) for text, of_text in zip(texts, codes)]
            )
        elif scored or drawn > n:
            scores = self._scores(ids.repeat(drawn, axis=0), codes.reshape([-1, height * width]), show_progress)
            scores = scores.reshape([len(texts), drawn])
        else:
            return Drawn(codes, None, np.tile(np.arange(n), (len(texts), 1)))
        chosen = np.stack([best(row, n) if drawn > n else np.arange(n) for row in scores])
        take = np.take_along_axis
        return Drawn(take(codes, chosen[:, :, None, None], 1), take(scores, chosen, 1), chosen)

    def _drawings(
        self,
        ids: np.ndarray,
        sampler: Sampler,
        drawn: int,
        guidance: float,
        begun: np.ndarray | None,
        show_progress: bool,
    ) -> np.ndarray:
        """Codes int64 [P, drawn, h, w], some drawings of some texts at a time."""
        towards, count = Guidance(guidance, self._ids([""])[0]), self.reader.grid[0] * self.reader.grid[1]
        begun = np.tile(np.empty(0, np.int64) if begun is None else begun, (len(ids), 1))
        samples = min(drawn, ROWS_AT_ONCE)
        at_once = ROWS_AT_ONCE // samples
        parts = [
            (slice(text, text + at_once), first, min(samples, drawn - first))
            for text in range(0, len(ids), at_once)
            for first in range(0, drawn, samples)
        ]
        codes = np.empty([len(ids), drawn, *self.reader.grid], np.int64)
        with Progress("drawing", len(parts) * count, quiet=not show_progress) as progress:
            for part, first, some in parts:
                made = draw(
                    self.reader,
                    ids[part],
                    replace(sampler, seed=sampler.seed + first),
                    some,
                    towards,
                    begun[part],
                    lambda _: progress.advance(),
                )
                codes[part, first : first + some] = made.reshape([-1, some, *self.reader.grid])
        return codes

    def describe(
        self,
        codes: np.ndarray,
        sampler: Sampler,
        beams: int = 0,
        length_penalty: float = 1.0,
        prefix: str = "",
        show_progress: bool = False,
    ) -> list[str]:
        """A text for each image of codes int64 [B, n] that begins with `prefix`, by `sampler` or by a search."""
        if not 0 <= beams <= MOST_BEAMS:
            raise UserError(f"--beams {beams}: must be between 0 and {MOST_BEAMS}")
        if beams and replace(sampler, greedy=False) != Sampler():
            raise UserError("--beams: nothing is left to chance; leave out --seed, --temperature, --top-k and --top-p")
        if not abs(length_penalty) <= 10:  # its power of a caption's length is a number
            raise UserError(f"--length-penalty {length_penalty}: must be between -10 and 10")
        tokenizer = self.text_tokenizer
        begun = words_of(prefix, tokenizer)
        at_once = max(1, ROWS_AT_ONCE // max(1, beams))
        texts = []
        with Progress("captioning", len(codes), quiet=not show_progress) as progress:
            for part in (codes[first : first + at_once] for first in range(0, len(codes), at_once)):
                if beams:
                    found = beam_search(self.reader, part, tokenizer, beams, length_penalty, begun)
                    texts += [tokenizer.decode(of_image[0][1]) for of_image in found]
                else:
                    texts += caption(self.reader, part, tokenizer, sampler, begun)
                progress.advance(len(part))
        return texts

    def pictures(self, codes: np.ndarray) -> np.ndarray:
        """Codes int64 [P, n, h, w] -> float32 [P, n, 3, H, W] in [0, 1]."""
        images = np.concatenate([self.decode(part) for part in _parts(codes.reshape([-1, *codes.shape[2:]]))])
        return images.reshape([*codes.shape[:2], *images.shape[1:]])

    def codes_of(self, images: Images) -> np.ndarray:
        """Codes int64 [B, n] of images as `score` takes them."""
        if not len(images):
            raise UserError("at least one image expected")
        if not isinstance(images, np.ndarray):
            images = to_unit(np.stack([crop.centre(on_white(image), self.image_size) for image in images]))
        if images.ndim != 4 or images.shape[1:] != (3, self.image_size, self.image_size) or images.dtype.kind != "f":
            raise UserError(
                f"images of shape [B, 3, {self.image_size}, {self.image_size}] in [0, 1] expected, not "
                f"{images.dtype} {list(images.shape)}"
            )
        if not np.abs(images - 0.5).max() <= 0.501:  # beyond rounding, or NaN
            raise UserError(f"images in [0, 1] expected, not from {images.min():g} to {images.max():g}")
        codes = [self.encode(part.astype(np.float32)) for part in _parts(images)]
        return np.concatenate(codes).reshape([len(images), -1])

    def too_long(self, text: str) -> bool:
        """Whether the model reads only the beginning of `text`."""
        return len(words_of(text, self.text_tokenizer)) > longest_caption(self.reader.text_length)

    def _ids(self, texts: Sequence[str]) -> np.ndarray:
        if isinstance(texts, str) or not len(texts):
            raise UserError("a list of at least one text expected")
        encode = CaptionEncoder(self.text_tokenizer, self.reader.text_length)
        return np.stack([encode(text) for text in texts])

    def _scores(self, ids: np.ndarray, codes: np.ndarray, show_progress: bool = False) -> np.ndarray:
        scores = []
        with Progress("scoring", len(ids), quiet=not show_progress) as progress:
            for pairs in zip(_parts(ids), _parts(codes)):
                scores.append(log_likelihood(self.reader, *pairs))
                progress.advance(len(pairs[0]))
        return np.concatenate(scores)


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    """As many rows as are worked on together."""
    return (rows[first : first + ROWS_AT_ONCE] for first in range(0, len(rows), ROWS_AT_ONCE))


def judged(judge: Judge, texts: list[str], pictures: np.ndarray) -> np.ndarray:
    """The judge's scores, float64 [B]. UserError if it gives anything but a number for each."""
    scores = np.asarray(judge(texts, pictures), np.float64)
    if scores.shape != (len(texts),) or not np.isfinite(scores).all():
        raise UserError(f"the judge gave {scores.shape} instead of {len(texts)} finite scores")
    return scores
