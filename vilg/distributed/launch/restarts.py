"""Decides whether the launcher restarts a job after a failure."""

import json
from pathlib import Path

from vilg.distributed.launch.failure_class import FailureClass

# A run is deterministic, so these failures may repeat at the same step. Other classes depend on the machines.
_MAY_REPEAT = (FailureClass.DEFECT, FailureClass.OUT_OF_MEMORY)
_MAX_REPEATS = 3
_TAIL = 2**16  # bytes, more than one line of metrics.jsonl


class Restarts:
    """Counts the attempts of a job that failed in the same way at the same step."""

    def __init__(self) -> None:
        self._last: tuple[FailureClass | None, int] | None = None
        self._repeats = 0

    def reason_to_give_up(self, failure: FailureClass | None, step: int) -> str | None:
        """Call it once after each failed attempt. Returns None if the job is to be restarted.

        failure: None if no rank has failed, for example after a stall. step: the last recorded step.
        """
        self._repeats = self._repeats + 1 if self._last == (failure, step) else 1
        self._last = failure, step
        if failure is FailureClass.USER:
            return "another attempt would end in the same way"
        if failure in _MAY_REPEAT and self._repeats == _MAX_REPEATS:
            return f"{failure.value} in {_MAX_REPEATS} attempts in a row after step {step}"
        return None


def last_step(metrics: Path) -> int:
    """The last step in a metrics.jsonl; 0 if there is none. A line that is being written is ignored."""
    try:
        with open(metrics, "rb") as opened:
            opened.seek(max(0, metrics.stat().st_size - _TAIL))
            lines = opened.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0
