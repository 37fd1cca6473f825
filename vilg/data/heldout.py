"""The held-out samples of a run: which ones are used, and reading some of them."""

from collections.abc import Iterable, Iterator

import numpy as np

from vilg import config
from vilg.data.bad_samples import BadSamples
from vilg.data.loader import read_sample
from vilg.data.sampling_order import Sample
from vilg.data.shards import Shards, expand
from vilg.errors import UserError


class HeldoutSamples:
    """At most `data.max_heldout_images` samples of `data.heldout`, evenly spaced. They have positions from 0 on.

    Raises UserError if `data.heldout` is empty or names no shard with a sample.
    """

    def __init__(self, settings: config.Data, captions: bool = True):
        if not settings.heldout:
            raise UserError("data.heldout: required by train.eval_every and train.sample_images_every")
        self._size, self._captions = settings.image_size, captions
        self._bad_samples = BadSamples(settings.max_bad_samples)
        self._shards = Shards(expand(settings.heldout), self._bad_samples, captions)
        self._records = evenly_spaced(len(self._shards), settings.max_heldout_images)

    def __len__(self) -> int:
        """The number of positions. A broken sample has a position, too."""
        return len(self._records)

    def read(self, positions: Iterable[int]) -> Iterator[tuple[int, Sample, list[str]]]:
        """(position, sample, all its captions) for each of `positions` whose sample is not broken; center-cropped."""
        for position in positions:
            number = int(self._records[position])
            read = read_sample(self._shards, self._bad_samples, number, self._size, self._captions)
            if read is not None:
                yield position, *read


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """At most `most` of the numbers 0 .. count - 1, ascending, int64; all of them if `most` is 0."""
    return np.arange(count) if not most or count <= most else np.arange(most) * count // most


def no_usable_image() -> UserError:
    """The error for held-out shards in which every image is broken."""
    return UserError("data.heldout: contains no usable image")
