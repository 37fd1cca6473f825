"""What kind of failure ended a rank, by the wording of the error in its log.

Paddle raises errors of CUDA and NCCL as `OSError: (External) CUDA error(719), ..`, and reports a signal such as SIGSEGV
as "FatalError: `Segmentation fault` is detected by the operating system". The type of an exception says little,
therefore, and most of these errors cannot be caught in Python.
"""

import re
from enum import Enum

USER_ERROR = "vilg: "  # how vilg begins the one line of an error that the user can correct


class FailureClass(Enum):
    """The value is how the launcher prints it."""

    DEVICE = "device"  # a GPU, its driver or its libraries
    COMMUNICATION = "communication"  # NCCL, gloo or the TCPStore, often because another rank has exited
    STORAGE = "storage"  # a disk or a network file system, also one that is full
    OUT_OF_MEMORY = "out of memory"  # of a device, of the host or of /dev/shm
    KILLED = "killed"  # by a signal from outside, without an error
    USER = "bad input"  # another attempt would end in the same way
    DEFECT = "defect"  # everything else, for example an exception in vilg


# In this order: "CUDA error(2), out of memory" is a lack of memory, and "NCCL error(1), unhandled cuda error" a failure
# of communication. Wordings of Paddle 3.3, glibc, the kernel, gloo and NCCL; letters of either case.
_WORDINGS = {
    FailureClass.OUT_OF_MEMORY: (
        r"ResourceExhaustedError",
        r"out of memory",
        r"fail to alloc memory",
        r"cannot allocate memory",
        r"MemoryError\b",
        r"std::bad_alloc",
        r"BadAlloc\b",
        r"_ALLOC_FAILED",
        r"insufficient shared memory",
    ),
    FailureClass.DEVICE: (
        r"\bCU(DA|DNN|BLAS|BLASLT|FFT|RAND|SOLVER|SPARSE) error *\(",
        r"uncorrectable ECC error",
        r"fallen off the bus",
    ),
    FailureClass.COMMUNICATION: (
        r"\bNCCL error",
        r"nccl(System|Remote|Internal)Error",
        r"gloo/|gloo::",
        r"TCPStore",
        r"Connection (closed|reset) by peer",
        r"Connection refused",
        r"Connection timed out",
        r"Broken pipe",
        r"Socket (unexpectedly )?closed",
        r"Timed out waiting",
        r"Wait timeout for key",
        r"No route to host",
        r"Network is unreachable",
    ),
    FailureClass.STORAGE: (
        r"Input/output error",
        r"Remote I/O error",
        r"Stale (NFS )?file handle",
        r"No space left on device",
        r"Disk quota exceeded",
        r"Structure needs cleaning",  # EUCLEAN: a damaged file system
        r"Transport endpoint is not connected",  # ENOTCONN: a FUSE file system whose process has ended
        r"Access to an undefined portion of a memory object",  # SIGBUS: a mapped file that cannot be read
        r"Fatal Python error: Bus error",
    ),
}
_PATTERNS = {kind: re.compile("|".join(wordings), re.IGNORECASE) for kind, wordings in _WORDINGS.items()}
_TRACEBACK = "Traceback (most recent call last)"
# The last words of a process that a signal ended: faulthandler's, Paddle's, and those of the C++ library.
_CRASH = ("Fatal Python error: ", "FatalError: `", "terminate called after throwing")


def last_error(lines: list[str]) -> list[str]:
    """The log from its last error on: a crash, a traceback or the line of a UserError. Empty if there is no error."""
    for start, line in enumerate(lines):
        if line.startswith(_CRASH):
            return lines[start:]
    for start in range(len(lines) - 1, -1, -1):
        if lines[start].startswith((_TRACEBACK, USER_ERROR)):
            return lines[start:]
    return []


def classify(error: list[str], out_of_memory: bool = False) -> FailureClass:
    """The class of a failure from the lines that `last_error` returns.

    out_of_memory: whether the kernel has killed processes of this host for lack of memory, which leaves no error.
    """
    if not error:
        return FailureClass.OUT_OF_MEMORY if out_of_memory else FailureClass.KILLED
    message = "\n".join(_message(error))
    for kind, pattern in _PATTERNS.items():
        if pattern.search(message):
            return kind
    return FailureClass.USER if error[0].startswith(USER_ERROR) else FailureClass.DEFECT


def _message(error: list[str]) -> list[str]:
    """The lines of the exception, without the frames of a traceback, whose source code may contain any wording."""
    if not error[0].startswith(_TRACEBACK):
        return error
    return error[next((number for number, line in enumerate(error[1:], 1) if not line.startswith(" ")), len(error)) :]
