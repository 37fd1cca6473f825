"""The exit handlers of Python run, those of C++ do not."""

import subprocess
import sys

import pytest

# abort() replaces a thread of Paddle that runs after static objects were destroyed.
PROGRAM = """
import atexit, ctypes, sys
from vilg.distributed.shutdown import exit_process, run_and_exit
libc = ctypes.CDLL(None)
libc.on_exit(libc.abort, None)
atexit.register(print, "after", end="")
print("before", end=" ")
{end}
"""


@pytest.mark.parametrize(
    "end, code, printed",
    [
        ("exit_process(0)", 0, "before after"),
        ("exit_process(3)", 3, "before after"),
        ("sys.exit(0)", -6, "before after"),
        ("run_and_exit(lambda: 3)", 3, "before after"),
        ("run_and_exit(lambda: 1 // 0)", 1, "before after"),
    ],
)
def test_the_exit_code_is_passed_on(end, code, printed):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(end=end)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, printed)
    assert ("Traceback (most recent call last)" in done.stderr) == ("//" in end)
