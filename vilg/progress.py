"""Progress of long work: a bar on a terminal, otherwise a plain line from time to time."""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts up to `total`. Use it as a context manager. `quiet` prints nothing, for ranks other than 0."""

    def __init__(self, what: str, total: int | None, done: int = 0, quiet: bool = False):
        self.what, self.total, self.start, self.done, self.quiet = what, total, done, done, quiet
        self.began = time.monotonic()
        self.last_line = 0.0
        self.bar = None
        if not quiet and sys.stderr.isatty():
            self.bar = tqdm(desc=what, total=total, initial=done, dynamic_ncols=True)

    def advance(self, by: int = 1, **shown: float | str) -> None:
        """Count `by` more. `shown` values are printed after the count, for example loss=2.31."""
        self.done += by
        if self.bar is not None:
            self.bar.set_postfix(shown, refresh=False)
            self.bar.update(by)
        elif not self.quiet and self._line_is_due():
            print(self._line(shown), file=sys.stderr, flush=True)

    def _line_is_due(self) -> bool:
        now = time.monotonic()
        if self.done != self.total and now - self.last_line < SECONDS_BETWEEN_LINES:
            return False
        self.last_line = now
        return True

    def _line(self, shown: dict) -> str:
        seconds = time.monotonic() - self.began
        parts = [f"{self.what}: {self.done}" + (f"/{self.total}" if self.total else "")]
        for name, value in shown.items():
            parts.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
        if self.total and self.done > self.start:
            left = seconds / (self.done - self.start) * (self.total - self.done)
            parts.append(f"{clock(seconds)}, {clock(left)} left")
        return "  ".join(parts)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, 75 -> 1:15; from 100 minutes on in two units, see `duration`."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes}:{rest:02}" if minutes < 100 else duration(seconds)


def duration(seconds: float) -> str:
    """Seconds in two units: 45 s, 3 min 20 s, 5 h 07 min, 12 d 03 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"
