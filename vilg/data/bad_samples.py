"""Broken data: named in the log, counted, skipped up to a limit."""

import logging
import threading

from vilg.errors import UserError

log = logging.getLogger(__name__)


class BadSampleError(Exception):
    """One sample that cannot be used; the message says why."""


class BadSamples:
    """The places in the data that turned out broken; the place after `limit` of them stops the run.

    A place counts once, however often it is met. Readers in several threads may share one object.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._places: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, place: str, reason: str) -> None:
        """Note that `place` is broken; UserError once there are more than `limit`."""
        with self._lock:
            if place in self._places:
                return
            self._places[place] = reason
            count = len(self._places)
        log.warning("skipped %s: %s (%d of at most %d)", place, reason, count, self.limit)
        if count > self.limit:
            raise UserError(f"{place}: {reason}; {count} broken samples, more than max_bad_samples={self.limit}")

    def __len__(self) -> int:
        return len(self._places)
