"""Steps in a metrics.jsonl, of which a kill or a power failure may have damaged lines."""

import json
from pathlib import Path

_TAIL = 2**20  # bytes at the end of the file, where the last step is searched


def step_of(line: bytes) -> int | None:
    """The step of a line; None if it is damaged or has no end."""
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else None
    except (ValueError, TypeError, KeyError):
        return None


def read_steps(file: Path) -> list[dict]:
    """All complete lines. Empty if there is no such file."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_bytes().splitlines(keepends=True) if step_of(line) is not None]


def last_step(file: Path) -> int:
    """The step of the last complete line; 0 without one, or if the file cannot be read."""
    try:
        with open(file, "rb") as opened:
            opened.seek(max(0, file.stat().st_size - _TAIL))
            lines = opened.readlines()
    except OSError:
        return 0
    return next((step for line in reversed(lines) if (step := step_of(line)) is not None), 0)
