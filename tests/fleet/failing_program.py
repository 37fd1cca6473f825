"""Stands for tools/pretrain.py: each attempt of a job fails in another way, in the step after the first of the attempt.

The file `failures` in the working directory has the number of failures so far.
"""

import os
import signal
import sys
from pathlib import Path

from vilg.cli import main
from vilg.distributed.shutdown import run_and_exit
from vilg.training.pretraining import Pretraining


def stale_file_handle(*_):
    raise OSError(116, "Stale file handle")


def raise_error(error: Exception) -> None:
    raise error


OUT_OF_MEMORY = """

----------------------
Error Message Summary:
----------------------
ResourceExhaustedError:

Out of memory error on GPU 0. Cannot allocate 98.000244MB memory on GPU 0, available memory is only 0.000000B.
"""
FAILURES = [
    lambda: raise_error(OSError("(External) CUDA error(719), unspecified launch failure.")),
    lambda: raise_error(OSError("(External) NCCL error(2), unhandled system error.")),
    lambda: raise_error(MemoryError(OUT_OF_MEMORY)),
    lambda: setattr(os, "pread", stale_file_handle),  # the data set is read with it
    lambda: os.kill(os.getpid(), signal.SIGBUS),
    lambda: raise_error(KeyError("x")),
]


def fail(failures: Path) -> None:
    number = int(failures.read_text()) if failures.exists() else 0
    if number < len(FAILURES):
        failures.write_text(str(number + 1))
        FAILURES[number]()


if __name__ == "__main__":
    steps = []

    def on_step_begin(self, step: int) -> None:
        steps.append(step)
        if len(steps) == 2:
            fail(Path("failures"))

    Pretraining.on_step_begin = on_step_begin
    run_and_exit(lambda: main(["pretrain", *sys.argv[1:]]))
