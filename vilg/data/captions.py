"""All captions of shards, without their images."""

from collections.abc import Iterator

from vilg.data.decode import captions
from vilg.data.faults import BrokenSample, Faults
from vilg.data.shards import Shards, expand
from vilg.progress import Progress


def every_caption(patterns: list[str], max_faults: int) -> Iterator[str]:
    """Each caption of each sample of the shards that `patterns` name; broken ones are faults."""
    faults = Faults(max_faults)
    shards = Shards(expand(patterns), faults)
    with Progress("captions", len(shards)) as progress:
        for number in range(len(shards)):
            try:
                yield from captions(shards.caption(number))
            except BrokenSample as fault:
                faults.add(shards.name(number), str(fault))
            progress.advance()
