"""Python's own end happens, that of C++ does not."""

import subprocess
import sys

import pytest

# abort() stands for what a thread of Paddle's does once static objects are gone.
PROGRAM = """
import atexit, ctypes, sys
from vilg.distributed.shutdown import exit_process
libc = ctypes.CDLL(None)
libc.on_exit(libc.abort, None)
atexit.register(print, "behind", end="")
print("before", end=" ")
{end}
"""


@pytest.mark.parametrize(
    "end, code, printed",
    [
        ("exit_process(0)", 0, "before behind"),
        ("exit_process(3)", 3, "before behind"),
        ("sys.exit(0)", -6, "before behind"),
    ],
)
def test_the_exit_code_is_the_one_that_was_given(end, code, printed):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(end=end)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, printed)
