"""All captions of shards, without their images."""

from collections.abc import Iterator
from dataclasses import dataclass

from vilg.data.bad_samples import BadSampleError, BadSamples
from vilg.data.decode import decode_captions
from vilg.data.shards import Shards, expand
from vilg.progress import Progress


@dataclass(frozen=True)
class CaptionDataset:
    """Iterates over all captions of all samples of the shards `patterns`, any number of times. Broken samples are
    skipped.
    """

    patterns: list[str]
    max_bad_samples: int

    def __iter__(self) -> Iterator[str]:
        bad_samples = BadSamples(self.max_bad_samples)
        shards = Shards(expand(self.patterns), bad_samples)
        with Progress("captions", len(shards)) as progress:
            for number in range(len(shards)):
                try:
                    yield from decode_captions(shards.caption(number))
                except BadSampleError as fault:
                    bad_samples.add(shards.name(number), str(fault))
                progress.advance()
