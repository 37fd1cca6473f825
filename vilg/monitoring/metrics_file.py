"""Reads metrics.jsonl while a run writes it."""

import json
import math
from array import array
from collections import deque
from pathlib import Path
from typing import BinaryIO

_RECENT = 1000  # lines that are kept whole; a long run has hundreds of thousands


class MetricsFile:
    """The content of a run's metrics.jsonl.

    lines: the last lines as dictionaries. series: {key: (steps, values)} of all lines, without values that are not
    finite.

    `update` reads what was appended since the last call. A line without its end, which is being written or was torn by
    a kill, is left for later. Damaged lines are skipped.
    """

    def __init__(self, path: Path):
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.lines: deque[dict[str, float]] = deque(maxlen=_RECENT)
        self.series: dict[str, tuple[array, array]] = {}
        self._offset, self._last = 0, b""  # what has been read, and its last line

    def update(self) -> None:
        try:
            with open(self.path, "rb") as file:
                self._read(file)
        except FileNotFoundError:  # the run has not taken a step
            self._forget()

    def _read(self, file: BinaryIO) -> None:
        file.seek(self._offset - len(self._last))
        if file.read(len(self._last)) != self._last:  # a resumed run has cut the file or replaced it
            self._forget()
            file.seek(0)
        for line in file:
            if not line.endswith(b"\n"):
                break
            self._offset, self._last = self._offset + len(line), line
            if (values := _parse(line)) is not None:
                self._append(values)

    def _append(self, values: dict[str, float]) -> None:
        self.lines.append(values)
        for name, value in values.items():
            if math.isfinite(value):
                steps, column = self.series.setdefault(name, (array("q"), array("d")))
                steps.append(int(values["step"]))
                column.append(value)


def _parse(line: bytes) -> dict[str, float] | None:
    """The numbers of a line. None if it is damaged."""
    try:
        values = json.loads(line)
        if not isinstance(values["step"], int):
            return None
        return {name: value for name, value in values.items() if isinstance(value, (int, float))}
    except (ValueError, TypeError, KeyError):
        return None
