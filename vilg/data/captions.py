"""All captions of shards, without their images."""

from collections.abc import Iterator

from vilg.data.decode import captions
from vilg.data.faults import BrokenSample, Faults
from vilg.data.shards import Shards, expand


def every_caption(patterns: list[str], max_faults: int = 100) -> Iterator[str]:
    """Each caption of each sample of the shards that `patterns` name."""
    faults = Faults(max_faults)
    shards = Shards(expand(patterns), faults)
    for number in range(len(shards)):
        try:
            yield from captions(shards[number])
        except BrokenSample as fault:
            faults.add(shards.name(number), str(fault))
