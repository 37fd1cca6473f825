"""The signals after which a run stops and saves: SIGTERM, Ctrl-C, and the end of its terminal."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STOPPED_FILE = "VILG_STOPPED_FILE"  # variable with the file that a rank creates for `vilg fleetrun`
STOPPED_EXIT_CODE = os.EX_TEMPFAIL  # of `vilg fleetrun`, so that a scheduler does not take the run for complete

_INTERRUPTED = b"\nCtrl-C: stopping and saving a checkpoint; Ctrl-C again ends at once, without saving\n"


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Within the block, SIGTERM, SIGINT and SIGHUP do not end this process, except for a second SIGINT.

    Schedulers send SIGTERM some time before they stop a job. fleetrun repeats it twice, so once it has arrived, it is
    ignored after the block. A process that ignores SIGHUP, as under nohup, goes on doing so.

    Yields a function that tells whether one of the signals has arrived.
    """
    received: list[int] = []
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def receive(number: int, _) -> None:
        if number == signal.SIGINT:
            if number in received:
                raise KeyboardInterrupt
            with suppress(OSError):  # nobody may read it
                # A print could interrupt another print of this thread, which Python refuses.
                os.write(2, _INTERRUPTED)
        if number == signal.SIGHUP:
            discard_output(terminals)
        received.append(number)

    watched = [number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if not _is_ignored(number)]
    before = {number: signal.signal(number, receive) for number in watched}
    try:
        yield lambda: bool(received)
    except Exception:
        if signal.SIGTERM in received:  # fleetrun ends this rank because another one failed; this error follows from it
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        for number, handler in before.items():
            ending = number == signal.SIGTERM and number in received
            signal.signal(number, signal.SIG_IGN if ending else handler)


def report_stop() -> None:
    """Tell `vilg fleetrun` that the run was stopped before its end. Has no effect under other launchers.

    The exit code of a rank cannot say so: fleetrun kills the other ranks 3 seconds after one that does not end with 0.
    """
    if file := os.environ.get(STOPPED_FILE):
        Path(file).touch()


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


def discard_output(streams: list[int]) -> None:
    """Discard what is written to these streams from now on. Every write to a terminal or a pipe that is gone is an
    error.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream)
    os.close(nowhere)
