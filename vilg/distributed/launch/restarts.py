"""Decides whether the launcher restarts a job after a failure."""

from vilg.distributed.launch.failure_class import FailureClass

# A run is deterministic, so these failures may repeat at the same step. Other classes depend on the machines.
_MAY_REPEAT = (FailureClass.DEFECT, FailureClass.OUT_OF_MEMORY)
_MAX_REPEATS = 3


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
