"""When a run evaluates, generates sample images and saves: every n steps, every m minutes, or both."""

import time
from dataclasses import dataclass

from vilg.distributed.world import World


@dataclass(frozen=True)
class Interval:
    """Steps and minutes after which something is due. 0: not by steps, or not by time."""

    steps: int
    minutes: float

    def __bool__(self) -> bool:
        return self.steps > 0 or self.minutes > 0


class Cadence:
    """Tells which of several things are due.

    Minutes are those of the clock of rank 0. All ranks have to decide alike, so rank 0 calls `overdue` before a step,
    its answer is sent to all ranks, and they pass it to `is_due` after the step. Minutes count from the start of this
    process or from the last time that the same thing was due. Steps do not depend on when a run was resumed.
    """

    def __init__(self, world: World, intervals: dict[str, Interval]):
        self._world, self._intervals = world, intervals
        self._since = dict.fromkeys(intervals, time.monotonic())

    def overdue(self) -> dict[str, bool]:
        """{name: whether its minutes have passed}. False on all ranks but rank 0."""
        now = time.monotonic()
        return {
            name: self._world.is_rank_zero and interval.minutes > 0 and now - self._since[name] > 60 * interval.minutes
            for name, interval in self._intervals.items()
        }

    def is_due(self, name: str, step: int, is_last: bool, overdue: dict[str, float]) -> bool:
        """Whether `name` is due after `step`. Everything that is ever due is due after the last step.

        overdue: the answer of rank 0. If `name` is due, its minutes start again.
        """
        interval = self._intervals[name]
        due = bool(interval) and (is_last or bool(interval.steps and step % interval.steps == 0) or bool(overdue[name]))
        if due:
            self._since[name] = time.monotonic()
        return due
