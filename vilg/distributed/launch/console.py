"""Prints the output of a job. The job goes on if nobody reads it, as after `vilg launch .. | head`."""

import logging
import sys
from pathlib import Path

from vilg.distributed.stop_signals import discard_output

log = logging.getLogger(__name__)


class Console:
    """The standard output of the launcher. logs: the folder that the first failure to print names."""

    def __init__(self, logs: Path):
        self._logs, self._is_open = logs, True

    def print(self, line: str) -> None:
        """Print a line. After the first failure, which may also be a full disk, nothing is printed any more."""
        if not self._is_open:
            return
        try:
            print(line, flush=True)
        except OSError as error:
            self._is_open = False
            discard_output([sys.stdout.fileno()])  # otherwise Python fails again when it ends
            log.warning("standard output: %s; the job goes on, and its logs are in %s", error.strerror, self._logs)
