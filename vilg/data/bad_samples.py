"""Broken samples are logged, counted, and skipped up to a limit."""

import logging
import threading

from vilg.errors import UserError

log = logging.getLogger(__name__)


class BadSampleError(Exception):
    """A sample that cannot be used. The message says why."""


class BadSamples:
    """Counts broken samples, and raises UserError when there are more than `limit`.

    Each sample counts once, however often it is read. Reader threads may share one object.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._places: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, place: str, reason: str) -> None:
        """Record that the sample `place` is broken. Raises UserError if there are more than `limit` broken samples."""
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
