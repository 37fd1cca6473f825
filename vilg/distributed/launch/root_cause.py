"""Finds why a job failed: the error of the rank that failed first, not the follow-up errors of its peers."""

from dataclasses import dataclass

from vilg.distributed.launch.failure_class import FailureClass, classify, last_error

# fleetrun kills the other ranks about two seconds after the first one has ended. They leave no error.
_STOPPED_BY_FLEETRUN = 2.0


@dataclass(frozen=True)
class RankFailure:
    """A rank that has exited, and the last lines of its log.

    seconds: when it exited, by any clock. out_of_memory: whether the kernel has killed processes of its host for lack
    of memory.
    """

    where: str
    lines: list[str]
    seconds: float = 0.0
    out_of_memory: bool = False

    @property
    def error(self) -> list[str]:
        """The log from its last error on; empty if the rank was killed."""
        return last_error(self.lines)

    @property
    def failure_class(self) -> FailureClass:
        return classify(self.error, self.out_of_memory)

    def is_secondary(self, first: float) -> bool:
        """Whether this failure may be a consequence of another one; `first` is the time of the first failure."""
        stopped = not self.error and self.seconds > first + _STOPPED_BY_FLEETRUN
        return stopped or self.failure_class is FailureClass.COMMUNICATION


def root_cause(failures: list[RankFailure]) -> RankFailure | None:
    """The first failure, in order of time, that is not a consequence of another one."""
    first = min((failure.seconds for failure in failures), default=0.0)
    own = [failure for failure in failures if not failure.is_secondary(first)]
    return next(iter(own or failures), None)


def describe(failure: RankFailure) -> str:
    """The class of a failure, the rank, and its error."""
    kind = failure.failure_class.value
    if failure.error:
        return f"{kind}, {failure.where}:\n" + "\n".join(f"    {line}" for line in failure.error)
    reason = "the kernel ended processes of this host" if failure.out_of_memory else "there is no error in its log"
    return f"{kind}: {failure.where} was killed: {reason}"


def describe_node(host: str, fleetrun: list[str] | None, others: list[str]) -> str:
    """Why a node ended although none of its ranks has failed.

    fleetrun: what fleetrun itself said last; None if the connection ended before it did. others: the last lines from
    the host that are of no rank, for example of ssh.
    """
    what = "the connection to it ended" if fleetrun is None else "fleetrun failed"
    lines = others if fleetrun is None else fleetrun
    said = ":\n" + "\n".join(f"    {line}" for line in lines) if lines else ", without a message"
    return f"{host}: {what} before any of its ranks reported an error{said}"
