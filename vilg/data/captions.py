"""All captions of shards, without their images."""

from collections.abc import Iterator
from dataclasses import dataclass

from vilg.data.decode import captions
from vilg.data.faults import BrokenSample, Faults
from vilg.data.shards import Shards, expand
from vilg.progress import Progress


@dataclass(frozen=True)
class EveryCaption:
    """Each caption of each sample of the shards that `patterns` name, as often as one asks; broken ones are faults."""

    patterns: list[str]
    max_faults: int

    def __iter__(self) -> Iterator[str]:
        faults = Faults(self.max_faults)
        shards = Shards(expand(self.patterns), faults)
        with Progress("captions", len(shards)) as progress:
            for number in range(len(shards)):
                try:
                    yield from captions(shards.caption(number))
                except BrokenSample as fault:
                    faults.add(shards.name(number), str(fault))
                progress.advance()
