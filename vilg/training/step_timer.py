"""Where the time of a run goes: seconds of its parts, and the time to its end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class StepTimer:
    """Adds up the seconds of named parts since the last line of metrics.jsonl, on the clock of the host.

    A part that only starts work on a GPU counts as the time to start it. The parts that are measured here (reading
    data, evaluating, saving) run on the host or wait for their results.
    """

    def __init__(self) -> None:
        self._parts: dict[str, float] = {}
        self._first_end: float | None = None
        self._samples = 0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """The time of this block counts as `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._parts[name] = self._parts.get(name, 0.0) + time.perf_counter() - began

    def each(self, name: str, items: Iterator[Item]) -> Iterator[Item]:
        """`items`, where the time to get each of them counts as `name`."""
        while True:
            with self.part(name):
                item = next(items, None)
            if item is None:
                return
            yield item

    def take(self) -> dict[str, float]:
        """{"NAME_seconds": seconds} of the parts since the last call."""
        parts, self._parts = self._parts, {}
        return {f"{name}_seconds": seconds for name, seconds in parts.items()}

    def end_step(self, seconds: float, samples: int, samples_left: int) -> float:
        """Seconds until `samples_left` more samples are trained on, at the mean pace of this process.

        The pace includes evaluations and saves. The first step of a process is slower and counts only until there is
        another. seconds, samples: of the step that ends now.
        """
        now = time.perf_counter()
        if self._first_end is None:
            self._first_end = now
            return seconds / samples * samples_left
        self._samples += samples
        return (now - self._first_end) / self._samples * samples_left
