"""Before an attempt starts on a node, the processes of earlier attempts of the same job have ended there.

They may still run if the agent of the node was killed, or if the connection to it was lost. A killed process that holds
much memory also needs some time until it is gone.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from vilg.distributed.folder_lock import LAUNCHED_JOB
from vilg.distributed.processes import start_time, variable

_PAUSE_S = 0.05


def end_previous_attempts(limit_s: float = 120.0) -> list[int]:
    """Kill the processes of earlier attempts of this job on this machine, and wait until they are gone.

    Returns the processes that still run after `limit_s` seconds, for example because a device does not answer.
    """
    job, _, attempt = os.environ.get(LAUNCHED_JOB, "").rpartition(".")
    if not job:
        return []
    processes = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    earlier = [process for process in processes if _attempt_of(process, job) < int(attempt)]
    for process in earlier:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + limit_s
    while (earlier := [p for p in earlier if start_time(p) is not None]) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
    return earlier


def _attempt_of(process: int, job: str) -> float:
    """The attempt to which a process belongs; infinite if it does not belong to this job."""
    of_job, _, attempt = (variable(process, LAUNCHED_JOB) or "").rpartition(".")
    return int(attempt) if of_job == job else float("inf")
