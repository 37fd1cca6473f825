"""Batches for one rank."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from vilg import config
from vilg.data import decode, images, token_shards
from vilg.data import shards as image_shards
from vilg.data.bad_samples import BadSampleError, BadSamples
from vilg.data.images import to_unit
from vilg.data.sampling_order import Sample, prefetch_batches, token_training_stream, training_stream
from vilg.data.shards import Shards, expand
from vilg.data.token_shards import TokenSample, TokenShards
from vilg.text.sequence import CaptionEncoder

EncodeCaption = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Batch:
    """A batch of B samples.

    images: float32 [B, 3, H, W] in [0, 1], or None with token shards, which have `codes` int64 [B, n]. text: int64 [B,
    T], or None if captions are not read. seeds: one random seed for each sample.
    """

    names: list[str]
    captions: list[str]
    images: np.ndarray | None
    text: np.ndarray | None
    seeds: list[int]
    codes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def required(self, name: str) -> np.ndarray:
        """The array `name`, which this batch has to have."""
        array = getattr(self, name)
        assert array is not None, f"the batch has no {name}"
        return array


class BatchStream(Iterator[Batch]):
    """An infinite iterator of batches. samples: the number of training samples, an epoch."""

    def __init__(self, batches: Iterator[Batch], samples: int):
        self._batches, self.samples = batches, samples

    def __next__(self) -> Batch:
        return next(self._batches)


def collate(samples: list[Sample], encode: EncodeCaption | None) -> Batch:
    """A batch of samples with images. encode: caption -> token ids [T], or None."""
    images = to_unit(np.stack([sample.image for sample in samples]))
    captions = [sample.caption for sample in samples]
    text = None if encode is None else np.stack([encode(caption) for caption in captions])
    return Batch([sample.name for sample in samples], captions, images, text, [sample.seed for sample in samples])


def collate_tokens(samples: list[TokenSample], encode: CaptionEncoder) -> Batch:
    """A batch of samples from token shards."""
    captions = [encode.tokenizer.decode(sample.words.tolist()) for sample in samples]
    codes = np.stack([sample.codes for sample in samples]).astype(np.int64)
    text = np.stack([encode.build_inputs(sample.words.tolist()) for sample in samples])
    return Batch([sample.name for sample in samples], captions, None, text, [sample.seed for sample in samples], codes)


def training_batches(
    settings: config.Data,
    seed: int,
    batch: int,
    rank: int,
    ranks: int,
    consumed: int,
    encode: EncodeCaption | None = None,
) -> BatchStream:
    """The batches of `batch` samples for `rank`, starting after the first `consumed` samples.

    Rank r reads positions consumed + r, consumed + r + ranks, .. so that the position of all ranks together does not
    depend on their number. `settings.threads` threads read ahead.
    """
    bad_samples = BadSamples(settings.max_bad_samples)
    shards = Shards(expand(settings.shards), bad_samples, captions=encode is not None)
    samples = training_stream(shards, bad_samples, seed, settings.image_size, settings.crop_jitter, encode is not None)
    batches = prefetch_batches(
        samples, consumed + rank, ranks, batch, settings.threads, partial(collate, encode=encode)
    )
    return BatchStream(batches, len(shards))


def token_batches(
    tokens: TokenShards,
    settings: config.Data,
    seed: int,
    batch: int,
    rank: int,
    ranks: int,
    consumed: int,
    encode: CaptionEncoder,
) -> BatchStream:
    """Like `training_batches`, from token shards."""
    batches = prefetch_batches(
        token_training_stream(tokens, seed),
        consumed + rank,
        ranks,
        batch,
        settings.threads,
        partial(collate_tokens, encode=encode),
    )
    return BatchStream(batches, len(tokens))


def fingerprint(settings: config.Data) -> dict:
    """{"shards": count, "sha256": ..} of the training data. Other data, or the same data in another order, has another
    hash.
    """
    return token_shards.fingerprint(settings.tokens) if settings.tokens else image_shards.fingerprint(settings.shards)


def all_samples(settings: config.Data, paths: list[str], captions: bool = True) -> Iterator[tuple[Sample, list[str]]]:
    """Each usable sample of `paths` once, in order, center-cropped, with all of its captions."""
    bad_samples = BadSamples(settings.max_bad_samples)
    shards = Shards(expand(paths), bad_samples, captions)
    for number in range(len(shards)):
        read = read_sample(shards, bad_samples, number, settings.image_size, captions)
        if read is not None:
            yield read


def read_sample(
    shards: Shards, bad_samples: BadSamples, number: int, image_size: int, captions: bool
) -> tuple[Sample, list[str]] | None:
    """One center-cropped sample with all of its captions ([""] if they are not read); None, and counted, if broken."""
    try:
        record = shards[number]
        texts = decode.decode_captions(record) if captions else [""]
        pixels = images.center_crop(decode.decode_image(record), image_size)
    except BadSampleError as fault:
        bad_samples.add(shards.name(number), str(fault))
        return None
    return Sample(record.name, pixels, texts[0]), texts
