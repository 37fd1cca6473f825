"""The end of a process of a job."""

import atexit
import os
import sys
from typing import NoReturn


def exit_process(code: int) -> NoReturn:
    """End this process with an exit code: after all that Python has to do at its end, before anything C++ would do.

    A rank that serves a TCPStore has a thread of Paddle's for it until the very end. When the other ranks leave in the
    moment in which this one destroys its static objects, that thread logs through a destroyed glog, and a run that is
    complete and saved ends with exit code -11 (Paddle 3.3.1 on CPUs; about one of fifteen runs of four ranks).
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
