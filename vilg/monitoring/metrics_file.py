"""Reads metrics.jsonl while a run writes it."""

import json
from pathlib import Path
from typing import BinaryIO


class MetricsFile:
    """The lines of a run's metrics.jsonl, as dictionaries in the order of steps.

    `update` reads what was appended since the last call. A line without its end, which is being written or was torn by
    a kill, is left for later. Damaged lines are skipped.
    """

    def __init__(self, path: Path):
        self.path = path
        self.lines: list[dict[str, float]] = []
        self._offset, self._last = 0, b""  # what has been read, and its last line

    def update(self) -> None:
        try:
            with open(self.path, "rb") as file:
                self._read(file)
        except FileNotFoundError:  # the run has not taken a step
            self.lines, self._offset, self._last = [], 0, b""

    def _read(self, file: BinaryIO) -> None:
        file.seek(self._offset - len(self._last))
        if file.read(len(self._last)) != self._last:  # a resumed run has cut the file or replaced it
            self.lines, self._offset = [], 0
            file.seek(0)
        complete = file.read().rpartition(b"\n")
        lines = (complete[0] + complete[1]).splitlines(keepends=True)
        if lines:
            self._offset, self._last = self._offset + sum(map(len, lines)), lines[-1]
        self.lines += filter(None, map(_parse, lines))


def _parse(line: bytes) -> dict[str, float] | None:
    """The numbers of a line. None if it is damaged."""
    try:
        values = json.loads(line)
        if not isinstance(values["step"], int):
            return None
        return {name: value for name, value in values.items() if isinstance(value, (int, float))}
    except (ValueError, TypeError, KeyError):
        return None
