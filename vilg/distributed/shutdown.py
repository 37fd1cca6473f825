"""Ends a process of a job."""

import atexit
import os
import sys
from collections.abc import Callable
from typing import NoReturn


def exit_process(code: int) -> NoReturn:
    """End this process with an exit code, after Python's exit handlers and before C++ destructors.

    Paddle serves the TCPStore of rank 0 in a thread that runs until the process ends. If the other ranks disconnect
    while static objects are being destroyed, that thread logs through a destroyed glog, and a complete and saved run
    ends with exit code -11 (Paddle 3.3.1 on CPUs, about one of fifteen runs with four ranks).
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_and_exit(program: Callable[[], int]) -> NoReturn:
    """Run the program of this process and end the process as `exit_process` does, also after an exception.

    Otherwise a crash of Paddle's threads could follow a traceback, and the launcher would report the crash.
    """
    try:
        code = program()
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    exit_process(code)
