"""Why a job died: the error of the rank that died first, not those of the ranks that lost it."""

from dataclasses import dataclass

# What a rank says when another one has gone: gloo, NCCL, and the store through which ranks meet.
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
    """A rank that has ended, and the last lines that it wrote."""

    where: str
    lines: list[str]

    @property
    def error(self) -> list[str]:
        """From the last traceback on, or vilg's one line; nothing if it was killed."""
        for start in range(len(self.lines) - 1, -1, -1):
            if self.lines[start].startswith(("Traceback (most recent call last)", _BAD_INPUT)):
                return self.lines[start:]
        return []

    @property
    def is_secondary(self) -> bool:
        return any(word in line for line in self.error for word in _LOST_PEER)

    @property
    def is_bad_input(self) -> bool:
        """Whether trying again would end in the same way."""
        return bool(self.error) and self.error[0].startswith(_BAD_INPUT)


def root_cause(failures: list[RankFailure]) -> RankFailure | None:
    """Of the dead, in the order in which they died, the first whose error is its own."""
    own = [failure for failure in failures if not failure.is_secondary]
    return (own or failures or [None])[0]


def describe(failure: RankFailure | None) -> str:
    if failure is None:
        return "a node was lost before any of its ranks said why"
    if not failure.error:
        return f"{failure.where} was killed: it wrote nothing about an error"
    return f"{failure.where}:\n" + "\n".join(f"    {line}" for line in failure.error)
