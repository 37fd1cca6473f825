"""Processes of this machine: whether one still runs, and that none outlives the process that started it."""

import ctypes
import os
import signal
from pathlib import Path

FLEETRUN_PID = "VILG_FLEETRUN_PID"  # variable with which `vilg fleetrun` tells its ranks who started them

_PR_SET_PDEATHSIG = 1  # prctl(2)
_ENDED = "ZXx"  # states of proc(5): the process has ended, and its parent has not read its exit code yet


def start_time(process: int) -> int | None:
    """When a process started, in clock ticks since this machine did; None if it does not run.

    A process id is used again after a while. Together with the start time it names one process.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in _ENDED else int(fields[19])


def variable(process: int, name: str) -> str | None:
    """The initial value of an environment variable of a process; None if there is no such process or variable."""
    try:
        for entry in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
            if entry.startswith(name.encode() + b"="):
                return entry.partition(b"=")[2].decode()
    except OSError:
        pass
    return None


def machine() -> str:
    """Names the set of processes that this one can see: one boot of one machine, and a container in it.

    Empty where the system does not tell.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, also if the parent is killed. Only Linux can do this.

    parent: the process on which this one depends. It may have ended before the call of prctl, so this is checked
    afterwards. The kernel watches the thread that started this process: start processes from a main thread.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):  # macOS
        return
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if start_time(parent) is None:
        os._exit(128 + signal.SIGKILL)


def die_with_fleetrun() -> None:
    """Let the kernel kill this rank when its fleetrun ends. Has no effect in a process that fleetrun did not start."""
    if "PADDLE_LOCAL_RANK" in os.environ:
        die_with_parent(int(os.environ.get(FLEETRUN_PID, os.getppid())))
