"""A model with its tokenizers: from texts to pictures, from pictures to texts, and how well the two fit."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from vilg.data.decode import to_rgb
from vilg.data.images import center_crop, to_unit
from vilg.errors import UserError
from vilg.generation.beam import beam_search
from vilg.generation.decoding_model import DecodingModel
from vilg.generation.image_to_text import caption
from vilg.generation.ranking import Scorer, best, log_likelihood
from vilg.generation.sampling import SEEDS, Sampler
from vilg.generation.text_to_image import Guidance, generate_codes
from vilg.progress import Progress
from vilg.text.sequence import CaptionEncoder, encode_caption, max_caption_tokens
from vilg.text.tokenizer import TextTokenizer

log = logging.getLogger(__name__)

MAX_ROWS = 32  # continuations that are decoded together: each has caches of its own
MAX_SAMPLES = 10_000  # of a text, whose codes and pictures are kept until the last is drawn
MAX_BEAMS = 1_000  # of an image: each has caches of its own, and all are decoded together

Images = np.ndarray | Sequence[Image.Image]


@dataclass(frozen=True)
class GeneratedImages:
    """What was drawn of each of P texts, the best first where some were left out.

    codes int64 [P, n, h, w]; scores float64 [P, n]: log p(text | image) in nats, or the scorer's, None if nobody asked
    for them; samples int64 [P, n]:
    the number of each among those drawn of its text, so that seed + number draws it again alone.
    """

    codes: np.ndarray
    scores: np.ndarray | None
    samples: np.ndarray


class Pipeline(ABC):
    """What is common to a checkpoint (generation/from_checkpoint.py) and an export (export/predictor.py)."""

    decoding_model: DecodingModel
    text_tokenizer: TextTokenizer
    image_size: int  # pixels a side
    origin: str  # the folder it came from
    checkpoint: str  # what its weights are
    caption_dropout: float | None  # share of empty captions in its training; None if that is not known

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
        return self.decode_samples(self.sample(texts, sampler, n, best_of, guidance, scored=best_of > n).codes)

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
        return self.caption_codes(self.encode_images(images), sampler, beams, length_penalty, prefix)

    def score(self, images: Images, texts: Sequence[str]) -> np.ndarray:
        """log p(text | image) of each pair in nats, float64 [B]; the higher, the better they fit.

        Images are a float32 array [B, 3, size, size] in [0, 1], or pictures of any size, which are cut to the largest
        centred square as in training.
        """
        if len(images) != len(texts):
            raise UserError(f"{len(images)} images and {len(texts)} texts")
        return self._scores(self._ids(texts), self.encode_images(images))

    def sample(
        self,
        texts: Sequence[str],
        sampler: Sampler,
        n: int = 1,
        best_of: int = 0,
        guidance: float = 1.0,
        prefix_codes: np.ndarray | None = None,
        scorer: Scorer | None = None,
        scored: bool = True,
        show_progress: bool = False,
    ) -> GeneratedImages:
        """Codes of `n` drawings of each text, which begin with the codes `prefix_codes` int64 [k] if given.

        `best_of` > n draws so many of each and keeps those that `scorer`, or log p(text | image), finds best.
        """
        if n < 1:
            raise UserError(f"-n {n}: must be at least 1")
        if best_of and best_of < n:
            raise UserError(f"--best-of {best_of}: fewer than the {n} to keep")
        if (drawn := max(n, best_of)) > MAX_SAMPLES:
            raise UserError(f"{'--best-of' if best_of else '-n'} {drawn}: at most {MAX_SAMPLES} drawings of a text")
        if sampler.seed + drawn > SEEDS:
            raise UserError(f"--seed {sampler.seed}: the seeds of {drawn} drawings go beyond 2^63 - 1")
        if guidance != 1 and self.caption_dropout == 0:
            log.warning(
                "--guidance %g: this model has never met an empty caption; train with train.caption_dropout=0.1",
                guidance,
            )
        ids, (height, width) = self._ids(texts), self.decoding_model.grid
        codes = self._sample_codes(ids, sampler, drawn, guidance, prefix_codes, show_progress)
        if scorer:
            scores = np.stack(
                [
                    run_scorer(scorer, [text] * drawn, self.decode_samples(of_text[None])[0])
                    for text, of_text in zip(texts, codes)
                ]
            )
        elif scored or drawn > n:
            scores = self._scores(ids.repeat(drawn, axis=0), codes.reshape([-1, height * width]), show_progress)
            scores = scores.reshape([len(texts), drawn])
        else:
            return GeneratedImages(codes, None, np.tile(np.arange(n), (len(texts), 1)))
        chosen = np.stack([best(row, n) if drawn > n else np.arange(n) for row in scores])
        take = np.take_along_axis
        return GeneratedImages(take(codes, chosen[:, :, None, None], 1), take(scores, chosen, 1), chosen)

    def _sample_codes(
        self,
        ids: np.ndarray,
        sampler: Sampler,
        drawn: int,
        guidance: float,
        prefix_codes: np.ndarray | None,
        show_progress: bool,
    ) -> np.ndarray:
        """Codes int64 [P, drawn, h, w], some drawings of some texts at a time."""
        towards, count = (
            Guidance(guidance, self._ids([""])[0]),
            self.decoding_model.grid[0] * self.decoding_model.grid[1],
        )
        prefix_codes = np.tile(np.empty(0, np.int64) if prefix_codes is None else prefix_codes, (len(ids), 1))
        samples = min(drawn, MAX_ROWS)
        at_once = MAX_ROWS // samples
        parts = [
            (slice(text, text + at_once), first, min(samples, drawn - first))
            for text in range(0, len(ids), at_once)
            for first in range(0, drawn, samples)
        ]
        codes = np.empty([len(ids), drawn, *self.decoding_model.grid], np.int64)
        with Progress("drawing", len(parts) * count, quiet=not show_progress) as progress:
            for part, first, some in parts:
                made = generate_codes(
                    self.decoding_model,
                    ids[part],
                    replace(sampler, seed=sampler.seed + first),
                    some,
                    towards,
                    prefix_codes[part],
                    lambda _: progress.advance(),
                )
                codes[part, first : first + some] = made.reshape([-1, some, *self.decoding_model.grid])
        return codes

    def caption_codes(
        self,
        codes: np.ndarray,
        sampler: Sampler,
        beams: int = 0,
        length_penalty: float = 1.0,
        prefix: str = "",
        show_progress: bool = False,
    ) -> list[str]:
        """A text for each image of codes int64 [B, n] that begins with `prefix`, by `sampler` or by a search."""
        if not 0 <= beams <= MAX_BEAMS:
            raise UserError(f"--beams {beams}: must be between 0 and {MAX_BEAMS}")
        if beams and replace(sampler, greedy=False) != Sampler():
            raise UserError("--beams: nothing is left to chance; leave out --seed, --temperature, --top-k and --top-p")
        if not abs(length_penalty) <= 10:  # its power of a caption's length is a number
            raise UserError(f"--length-penalty {length_penalty}: must be between -10 and 10")
        tokenizer = self.text_tokenizer
        prefix_codes = encode_caption(prefix, tokenizer)
        at_once = max(1, MAX_ROWS // max(1, beams))
        texts = []
        with Progress("captioning", len(codes), quiet=not show_progress) as progress:
            for part in (codes[first : first + at_once] for first in range(0, len(codes), at_once)):
                if beams:
                    found = beam_search(self.decoding_model, part, tokenizer, beams, length_penalty, prefix_codes)
                    texts += [tokenizer.decode(of_image[0][1]) for of_image in found]
                else:
                    texts += caption(self.decoding_model, part, tokenizer, sampler, prefix_codes)
                progress.advance(len(part))
        return texts

    def decode_samples(self, codes: np.ndarray) -> np.ndarray:
        """Codes int64 [P, n, h, w] -> float32 [P, n, 3, H, W] in [0, 1]."""
        images = np.concatenate([self.decode(part) for part in _parts(codes.reshape([-1, *codes.shape[2:]]))])
        return images.reshape([*codes.shape[:2], *images.shape[1:]])

    def encode_images(self, images: Images) -> np.ndarray:
        """Codes int64 [B, n] of images as `score` takes them."""
        if not len(images):
            raise UserError("at least one image expected")
        if not isinstance(images, np.ndarray):
            images = to_unit(np.stack([center_crop(to_rgb(image), self.image_size) for image in images]))
        if images.ndim != 4 or images.shape[1:] != (3, self.image_size, self.image_size) or images.dtype.kind != "f":
            raise UserError(
                f"images of shape [B, 3, {self.image_size}, {self.image_size}] in [0, 1] expected, not "
                f"{images.dtype} {list(images.shape)}"
            )
        if not np.abs(images - 0.5).max() <= 0.501:  # beyond rounding, or NaN
            raise UserError(f"images in [0, 1] expected, not from {images.min():g} to {images.max():g}")
        codes = [self.encode(part.astype(np.float32)) for part in _parts(images)]
        return np.concatenate(codes).reshape([len(images), -1])

    def exceeds_text_length(self, text: str) -> bool:
        """Whether the model reads only the beginning of `text`."""
        return len(encode_caption(text, self.text_tokenizer)) > max_caption_tokens(self.decoding_model.text_length)

    def _ids(self, texts: Sequence[str]) -> np.ndarray:
        if isinstance(texts, str) or not len(texts):
            raise UserError("a list of at least one text expected")
        encode = CaptionEncoder(self.text_tokenizer, self.decoding_model.text_length)
        return np.stack([encode(text) for text in texts])

    def _scores(self, ids: np.ndarray, codes: np.ndarray, show_progress: bool = False) -> np.ndarray:
        scores = []
        with Progress("scoring", len(ids), quiet=not show_progress) as progress:
            for pairs in zip(_parts(ids), _parts(codes)):
                scores.append(log_likelihood(self.decoding_model, *pairs))
                progress.advance(len(pairs[0]))
        return np.concatenate(scores)


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    """As many rows as are worked on together."""
    return (rows[first : first + MAX_ROWS] for first in range(0, len(rows), MAX_ROWS))


def run_scorer(scorer: Scorer, texts: list[str], pictures: np.ndarray) -> np.ndarray:
    """The scorer's scores, float64 [B]. UserError if it gives anything but a number for each."""
    scores = np.asarray(scorer(texts, pictures), np.float64)
    if scores.shape != (len(texts),) or not np.isfinite(scores).all():
        raise UserError(f"the scorer gave {scores.shape} instead of {len(texts)} finite scores")
    return scores
