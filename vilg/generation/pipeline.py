"""A model with its tokenizers: texts to images, images to texts, and scores of pairs."""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path

import numpy as np
import paddle
from PIL import Image

from vilg.arrays import to_numpy
from vilg.data.decode import read_image, to_rgb
from vilg.data.images import center_crop, to_unit
from vilg.errors import UserError
from vilg.generation.beam import beam_search
from vilg.generation.decoding_model import DecodingModel
from vilg.generation.image_to_text import Caption, sample_captions
from vilg.generation.ranking import Scorer, best, log_likelihood
from vilg.generation.sampling import SEEDS, Sampler
from vilg.generation.text_to_image import Guidance, generate_codes
from vilg.generation.texts import check_texts, encode_prefix
from vilg.progress import Progress
from vilg.text.sequence import CaptionEncoder
from vilg.text.tokenizer import TextTokenizer

log = logging.getLogger(__name__)

MAX_ROWS = 32  # continuations decoded together; each has its own caches
MAX_SAMPLES = 10_000  # of a text; all of them are kept in memory
MAX_BEAMS = 1_000  # of an image; each has its own caches, and all are decoded together

OneImage = Image.Image | str | Path
Images = np.ndarray | paddle.Tensor | OneImage | Sequence[OneImage]


@dataclass(frozen=True)
class GeneratedImages:
    """Generated images of P texts, best first if some were discarded.

    codes: int64 [P, n, h, w]. scores: float64 [P, n], log p(text | image) in nats or the results of the scorer; None if
    not requested. samples: int64 [P, n], index of each image among all generated for its text; seed + index generates
    it again alone.
    """

    codes: np.ndarray
    scores: np.ndarray | None
    samples: np.ndarray


def _exclusive(method):
    """Threads that share a pipeline wait for each other: the state of decoding is in the pipeline."""

    @wraps(method)
    def call_exclusively(self, *arguments, **options):
        with self.lock:
            return method(self, *arguments, **options)

    return call_exclusively


class Pipeline(ABC):
    """The common part of a checkpoint (generation/from_checkpoint.py) and an export (export/predictor.py).

    Several threads may call `generate`, `caption` and `score`; each call waits for the one before it.
    """

    decoding_model: DecodingModel
    text_tokenizer: TextTokenizer
    image_size: int  # side in pixels
    origin: str  # the folder that it was loaded from
    checkpoint: str  # the checkpoint of its weights
    caption_dropout: float | None  # train.caption_dropout of its training; None if unknown
    lock: threading.RLock

    @abstractmethod
    def encode(self, images: np.ndarray) -> np.ndarray:
        """Images float32 [B, 3, H, W] in [0, 1] -> codes int64 [B, h, w]."""

    @abstractmethod
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes int64 [B, h, w] -> images float32 [B, 3, H, W] in [0, 1]."""

    @_exclusive
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
        truncate: bool = False,
    ) -> np.ndarray:
        """Generate `n` images for each text: float32 [len(texts), n, 3, H, W] in [0, 1].

        Image i of seed s equals image 0 of seed s + i. With `best_of`, this many are generated and the best ones are
        returned. A text that is too long is refused, or with `truncate` truncated.
        """
        sampler = Sampler(seed, temperature, top_k, greedy, top_p)
        self.check_texts(texts, truncate)
        return self.decode_samples(self.sample(texts, sampler, n, best_of, guidance, scored=best_of > n).codes)

    @_exclusive
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
        """Generate a caption for each image, beginning with `prefix`. Images as in `score`.

        With `beams`, beam search of this width; with a seed, another sampling setting or greedy=False, sampling;
        otherwise greedy decoding.
        """
        if greedy is None:
            greedy = seed is None and (temperature, top_k, top_p) == (1.0, 0, 1.0)
        sampler = Sampler(seed or 0, temperature, top_k, greedy, top_p)
        captions = self.caption_codes(self.encode_images(images), sampler, beams, length_penalty, prefix)
        return [of_image[0].text for of_image in captions]

    @_exclusive
    def score(self, images: Images, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        """log p(text | image) of each pair in nats, float64 [B]. Higher is better.

        images: one image or several, as PIL images or paths of any size, which are center-cropped as in training; or a
        float array or tensor [B, 3, size, size] in [0, 1]. truncate: as in `generate`.
        """
        codes = self.encode_images(images)
        if len(codes) != len(texts):
            raise UserError(f"{len(codes)} images and {len(texts)} texts")
        self.check_texts(texts, truncate)
        return self._scores(self._ids(texts), codes)

    def check_texts(self, texts: Sequence[str], truncate: bool = False) -> list[str]:
        """`texts.check_texts` for this model. The warnings are logged, and returned."""
        warnings = check_texts(texts, self.text_tokenizer, self.decoding_model.text_length, truncate)
        for warning in warnings:
            log.warning("%s", warning)
        return warnings

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
        """Generate codes of `n` images for each text.

        prefix_codes: int64 [k], codes that every image begins with. With best_of > n, this many are generated and the
        best by `scorer`, or by log p(text | image), are kept. Raises UserError.
        """
        if n < 1:
            raise UserError(f"-n {n}: must be at least 1")
        if best_of and best_of < n:
            raise UserError(f"--best-of {best_of}: fewer than the {n} to keep")
        if (candidates := max(n, best_of)) > MAX_SAMPLES:
            raise UserError(f"{'--best-of' if best_of else '-n'} {candidates}: at most {MAX_SAMPLES} images for a text")
        if sampler.seed + candidates > SEEDS:
            raise UserError(f"--seed {sampler.seed}: the seeds of {candidates} images exceed 2^63 - 1")
        if guidance != 1 and self.caption_dropout == 0:
            log.warning(
                "--guidance %g: this model was trained without empty captions; train with train.caption_dropout=0.1",
                guidance,
            )
        ids, (height, width) = self._ids(texts), self.decoding_model.grid
        codes = self._sample_codes(ids, sampler, candidates, guidance, prefix_codes, show_progress)
        if scorer:
            scores = np.stack(
                [
                    run_scorer(scorer, [text] * candidates, self.decode_samples(of_text[None])[0])
                    for text, of_text in zip(texts, codes)
                ]
            )
        elif scored or candidates > n:
            scores = self._scores(ids.repeat(candidates, axis=0), codes.reshape([-1, height * width]), show_progress)
            scores = scores.reshape([len(texts), candidates])
        else:
            return GeneratedImages(codes, None, np.tile(np.arange(n), (len(texts), 1)))
        chosen = np.stack([best(row, n) if candidates > n else np.arange(n) for row in scores])
        take = np.take_along_axis
        return GeneratedImages(take(codes, chosen[:, :, None, None], 1), take(scores, chosen, 1), chosen)

    def _sample_codes(
        self,
        ids: np.ndarray,
        sampler: Sampler,
        candidates: int,
        guidance: float,
        prefix_codes: np.ndarray | None,
        show_progress: bool,
    ) -> np.ndarray:
        """Codes int64 [P, candidates, h, w], generated in batches."""
        towards, count = (
            Guidance(guidance, self._ids([""])[0]),
            self.decoding_model.grid[0] * self.decoding_model.grid[1],
        )
        prefix_codes = np.tile(np.empty(0, np.int64) if prefix_codes is None else prefix_codes, (len(ids), 1))
        samples = min(candidates, MAX_ROWS)
        at_once = MAX_ROWS // samples
        parts = [
            (slice(text, text + at_once), first, min(samples, candidates - first))
            for text in range(0, len(ids), at_once)
            for first in range(0, candidates, samples)
        ]
        codes = np.empty([len(ids), candidates, *self.decoding_model.grid], np.int64)
        with Progress("generating", len(parts) * count, quiet=not show_progress) as progress:
            for part, first, some in parts:
                sampled = generate_codes(
                    self.decoding_model,
                    ids[part],
                    replace(sampler, seed=sampler.seed + first),
                    some,
                    towards,
                    prefix_codes[part],
                    lambda _: progress.advance(),
                )
                codes[part, first : first + some] = sampled.reshape([-1, some, *self.decoding_model.grid])
        return codes

    def caption_codes(
        self,
        codes: np.ndarray,
        sampler: Sampler,
        beams: int = 0,
        length_penalty: float = 1.0,
        prefix: str = "",
        show_progress: bool = False,
        count: int = 1,
    ) -> list[list[Caption]]:
        """`count` captions of each image, from codes int64 [B, n], by `sampler` or the best ones of beam search."""
        if not 0 <= beams <= MAX_BEAMS:
            raise UserError(f"--beams {beams}: must be between 0 and {MAX_BEAMS}")
        if not 1 <= count <= MAX_BEAMS:
            raise UserError(f"-n {count}: must be between 1 and {MAX_BEAMS}")
        if beams and count > beams:
            raise UserError(f"-n {count}: more captions than --beams {beams}")
        if count > 1 and sampler.greedy:
            raise UserError(f"-n {count}: greedy decoding gives equal captions; use --beams or --temperature")
        if beams and replace(sampler, greedy=False) != Sampler():
            raise UserError(
                "--beams: beam search is deterministic; do not use --seed, --temperature, --top-k or --top-p with it"
            )
        if not abs(length_penalty) <= 10:  # larger powers of a caption's length overflow
            raise UserError(f"--length-penalty {length_penalty}: must be between -10 and 10")
        tokenizer = self.text_tokenizer
        prefix_ids = encode_prefix(prefix, tokenizer)
        at_once = max(1, MAX_ROWS // max(count, beams))
        captions: list[list[Caption]] = []
        with Progress("captioning", len(codes), quiet=not show_progress) as progress:
            for part in (codes[first : first + at_once] for first in range(0, len(codes), at_once)):
                if beams:
                    results = beam_search(self.decoding_model, part, tokenizer, beams, length_penalty, prefix_ids)
                    captions += [
                        [
                            Caption(tokenizer.decode(ids), score * (len(ids) + 1) ** length_penalty, len(ids))
                            for score, ids in of_image[:count]
                        ]
                        for of_image in results
                    ]
                else:
                    captions += sample_captions(self.decoding_model, part, tokenizer, sampler, prefix_ids, count)
                progress.advance(len(part))
        return captions

    def decode_samples(self, codes: np.ndarray) -> np.ndarray:
        """Codes int64 [P, n, h, w] -> images float32 [P, n, 3, H, W] in [0, 1]."""
        images = np.concatenate([self.decode(part) for part in _parts(codes.reshape([-1, *codes.shape[2:]]))])
        return images.reshape([*codes.shape[:2], *images.shape[1:]])

    def encode_images(self, images: Images) -> np.ndarray:
        """Codes int64 [B, n] of images as in `score`. Raises UserError."""
        if isinstance(images, OneImage):
            images = [images]
        elif isinstance(images, paddle.Tensor):
            images = to_numpy(images)
        if not len(images):
            raise UserError("at least one image expected")
        if not isinstance(images, np.ndarray):
            images = to_unit(np.stack([self.crop(image) for image in images]))
        if images.ndim != 4 or images.shape[1:] != (3, self.image_size, self.image_size) or images.dtype.kind != "f":
            raise UserError(
                f"images of shape [B, 3, {self.image_size}, {self.image_size}] in [0, 1] expected, not "
                f"{images.dtype} {list(images.shape)}"
            )
        if not np.abs(images - 0.5).max() <= 0.501:  # more than rounding, or NaN
            raise UserError(f"images in [0, 1] expected, not from {images.min():g} to {images.max():g}")
        codes = [self.encode(part.astype(np.float32)) for part in _parts(images)]
        return np.concatenate(codes).reshape([len(images), -1])

    def crop(self, image: OneImage) -> np.ndarray:
        """uint8 [size, size, 3]. Cropped one at a time, so that only one large image is in memory."""
        if isinstance(image, (str, Path)):
            image = read_image(Path(image))
        if not isinstance(image, Image.Image):
            raise UserError(f"a PIL image or a path expected, not {type(image).__name__}")
        try:
            return center_crop(to_rgb(image), self.image_size)
        except ValueError as error:
            raise UserError(f"an image of mode {image.mode}: {error}") from None

    def _ids(self, texts: Sequence[str]) -> np.ndarray:
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
    """Batches of rows that are processed together."""
    return (rows[first : first + MAX_ROWS] for first in range(0, len(rows), MAX_ROWS))


def run_scorer(scorer: Scorer, texts: list[str], images: np.ndarray) -> np.ndarray:
    """The results of the scorer, float64 [B]. Raises UserError unless it returns one finite number for each pair."""
    try:
        scores = np.asarray(scorer(texts, images), np.float64)
    except Exception as error:  # it is the user's function
        raise UserError(f"the scorer failed: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if scores.shape != (len(texts),) or not np.isfinite(scores).all():
        raise UserError(f"the scorer returned {scores.shape} instead of {len(texts)} finite scores")
    return scores
