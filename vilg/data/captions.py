"""All captions of shards, without their images."""

from collections.abc import Iterator
from dataclasses import dataclass

from vilg.data.bad_samples import BadSampleError, BadSamples
from vilg.data.decode import decode_captions
from vilg.data.shards import Shards, expand
from vilg.progress import Progress


@dataclass(frozen=True)
class CaptionDataset:
    """Each caption of each sample of the shards that `patterns` name, as often as one asks; broken ones are bad_samples."""

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
