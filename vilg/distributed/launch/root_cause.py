"""Finds why a job failed: the error of the rank that failed first, not the follow-up errors of its peers."""

from dataclasses import dataclass

# Errors of a rank whose peer has exited: gloo, NCCL and the TCPStore.
_LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Socket closed",
    "Timed out waiting",
    "NCCL error",
    "ncclSystemError",
    "ncclRemoteError",
    "TCPStore",
    "gloo/transport",
)
_BAD_INPUT = "vilg: "


@dataclass(frozen=True)
class RankFailure:
    """A rank that has exited, and the last lines of its log."""

    where: str
    lines: list[str]

    @property
    def error(self) -> list[str]:
        """The log from the last traceback or from vilg's error line on; empty if the rank was killed."""
        for start in range(len(self.lines) - 1, -1, -1):
            if self.lines[start].startswith(("Traceback (most recent call last)", _BAD_INPUT)):
                return self.lines[start:]
        return []

    @property
    def is_secondary(self) -> bool:
        return any(word in line for line in self.error for word in _LOST_PEER)

    @property
    def is_bad_input(self) -> bool:
        """Whether a restart would fail in the same way."""
        return bool(self.error) and self.error[0].startswith(_BAD_INPUT)


def root_cause(failures: list[RankFailure]) -> RankFailure | None:
    """The first failure, in order of time, that is not a follow-up of a lost peer."""
    own = [failure for failure in failures if not failure.is_secondary]
    return next(iter(own or failures), None)


def describe(failure: RankFailure | None) -> str:
    if failure is None:
        return "a node was lost before any of its ranks reported an error"
    if not failure.error:
        return f"{failure.where} was killed: there is no error in its log"
    return f"{failure.where}:\n" + "\n".join(f"    {line}" for line in failure.error)
