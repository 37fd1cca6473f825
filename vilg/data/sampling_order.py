"""The order of training samples.

The sample at position p of the infinite training stream, its crop, its caption and its seed are a pure function of
(seed, p). A run that has consumed c samples therefore resumes at position c in constant time, on any number of ranks.
grain shuffles each epoch by an index permutation and gives each position its own random generator; nothing is buffered
or skipped.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from vilg.data import decode, images
from vilg.data.bad_samples import BadSampleError, BadSamples
from vilg.data.shards import Shards
from vilg.data.token_shards import TokenSample, TokenShards
from vilg.errors import UserError

logging.getLogger("absl").setLevel(logging.ERROR)  # on import, grain logs that jax's profiler is missing
import grain  # noqa: E402

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One sample: uint8 image [size, size, 3] and one of its captions ("" if captions are not read).

    seed: a random number of the position, for all other random choices about the sample.
    """

    name: str
    image: np.ndarray
    caption: str
    seed: int = 0


class _LoadSample(grain.transforms.RandomMap):
    """Index of a record -> Sample, with the random generator of its position."""

    def __init__(self, shards: Shards, bad_samples: BadSamples, size: int, jitter: float, with_captions: bool):
        self.shards, self.bad_samples = shards, bad_samples
        self.size, self.jitter, self.with_captions = size, jitter, with_captions

    def random_map(self, number: int, rng: np.random.Generator) -> Sample:
        # A broken record is replaced by the next one, on any rank: the order stays a function of (seed, p).
        for attempt in range(len(self.shards)):
            chosen = (int(number) + attempt) % len(self.shards)
            try:
                return self._sample(chosen, rng)
            except BadSampleError as fault:
                self.bad_samples.add(self.shards.name(chosen), str(fault))
        raise UserError("data.shards: every sample is broken")

    def _sample(self, number: int, rng: np.random.Generator) -> Sample:
        record = self.shards[number]
        image = decode.decode_image(record)
        texts = decode.decode_captions(record) if self.with_captions else [""]
        pixels = (
            images.random_crop(image, self.size, self.jitter, rng)
            if self.jitter
            else images.center_crop(image, self.size)
        )
        return Sample(record.name, pixels, texts[rng.integers(len(texts))], int(rng.integers(2**63)))


class _LoadTokens(grain.transforms.RandomMap):
    """Index of an image -> TokenSample, with the random generator of its position."""

    def __init__(self, tokens: TokenShards):
        self.tokens = tokens

    def random_map(self, number: int, rng: np.random.Generator) -> TokenSample:
        return self.tokens.sample(int(number), rng)


def prefetch_batches(
    samples: grain.MapDataset, first: int, every: int, batch: int, threads: int, collate: Callable[[list], T]
) -> Iterator[T]:
    """Batches of the samples at positions first, first + every, .., read ahead by `threads` threads."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * batch)
    return iter(samples.slice(slice(first, None, every)).to_iter_dataset(options).batch(batch, batch_fn=collate))


def prefetch_ordered(read: Callable[[int], T | None], indices: range, batch: int, threads: int) -> Iterator[list[T]]:
    """Lists of `batch` results of `read` for `indices`, in order, without None. `threads` threads read ahead."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * batch)
    dataset = grain.MapDataset.range(indices.start, indices.stop).map(read).to_iter_dataset(options)
    return iter(dataset.batch(batch, batch_fn=list))


def training_stream(
    shards: Shards, bad_samples: BadSamples, seed: int, size: int, jitter: float, captions: bool
) -> grain.MapDataset:
    """position -> Sample, for all positions from 0 on."""
    return _positions(len(shards), seed).random_map(_LoadSample(shards, bad_samples, size, jitter, captions))


def token_training_stream(tokens: TokenShards, seed: int) -> grain.MapDataset:
    """position -> TokenSample, for all positions from 0 on.

    For token shards of the same images, each position has the same image as in `training_stream`.
    """
    return _positions(len(tokens), seed).random_map(_LoadTokens(tokens))


def _positions(count: int, seed: int) -> grain.MapDataset:
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat()
