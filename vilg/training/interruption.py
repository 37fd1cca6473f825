"""Stops a run in the middle of a step, between two micro-batches."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from vilg.distributed.world import World

Item = TypeVar("Item")


class StepInterruptedError(Exception):
    """A step was left before its update, on all ranks."""


def until_stopped(micro_batches: Iterable[Item], stop: Callable[[], bool], world: World) -> Iterator[Item]:
    """`micro_batches`, one at a time. Raises StepInterruptedError on all ranks before the second or a later one if
    `stop()` is true on any rank.

    The question costs a reduction of one number, and the host already waits for every micro-batch because it reads its
    loss. After the last micro-batch nothing is asked: the update that follows takes less time than a micro-batch.
    """
    for number, micro_batch in enumerate(micro_batches):
        if number and world.sum({"stop": float(stop())})["stop"]:
            raise StepInterruptedError
        yield micro_batch
