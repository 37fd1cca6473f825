"""The class of a failure from real wordings of Paddle, NCCL, gloo, Python and the kernel."""

import pytest

from vilg.distributed.launch.failure_class import FailureClass, classify, last_error
from vilg.distributed.launch.node import _oom_kills

PADDLE_SIGNAL = """

--------------------------------------
C++ Traceback (most recent call last):
--------------------------------------
No stack trace in paddle, may be caused by external reasons.

----------------------
Error Message Summary:
----------------------
FatalError: `{}` is detected by the operating system.
  [TimeInfo: *** Aborted at 1795789148 (unix time) try "date -d @1795789148" if you are using GNU date ***]
  [SignalInfo: *** {} (@0x1cc3) received by PID 7363 (TID 0x7f527c642b80) from PID 7363 ***]
"""
OUT_OF_MEMORY_ON_GPU = """ResourceExhaustedError:

Out of memory error on GPU 0. Cannot allocate 98.000244MB memory on GPU 0, 79.000000GB memory has been allocated and \
available memory is only 0.000000B.

Please check whether there is any other process using GPU 0.
"""
MESSAGES = {
    FailureClass.DEVICE: [
        "OSError: (External) CUDA error(719), unspecified launch failure.",
        "OSError: (External)  Cuda error(700), an illegal memory access was encountered.",
        "OSError: (External) CUBLAS error(14).",
        "RuntimeError: (External) CUDNN error(8), CUDNN_STATUS_EXECUTION_FAILED.",
        "OSError: (External) CUDA error(214), uncorrectable ECC error encountered.",
    ],
    FailureClass.OUT_OF_MEMORY: [
        OUT_OF_MEMORY_ON_GPU,
        "OSError: (External) CUDA error(2), out of memory.",
        "RuntimeError: (External) CUBLAS error(3). [Hint: 'CUBLAS_STATUS_ALLOC_FAILED'. Resource allocation failed]",
        "MemoryError",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8.00 TiB for an array",
        "SystemError: (Fatal) Fail to alloc memory of 99 size, error code is 12.",
        "OSError: [Errno 12] Cannot allocate memory",
        "RuntimeError: ERROR: Unexpected BUS error encountered in DataLoader worker. This might be caused by "
        "insufficient shared memory (shm)",
    ],
    FailureClass.COMMUNICATION: [
        "OSError: (External) NCCL error(2), unhandled system error.",
        "OSError: (External) NCCL error(1), unhandled cuda error.",
        "OSError: (External) NCCL error(6), remote process exited or there was a network error.",
        "RuntimeError: [/paddle/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:10895",
        "RuntimeError: (Unavailable) TCP connection reset by peer. Details: Resource temporarily unavailable.",
        "RuntimeError: (PreconditionNotMet) Wait timeout for key(s): barrier/1",
        "ConnectionRefusedError: [Errno 111] Connection refused",
    ],
    FailureClass.STORAGE: [
        "OSError: [Errno 116] Stale file handle",
        "OSError: [Errno 5] Input/output error: '/data/part-1.tar'",
        "OSError: [Errno 28] No space left on device",
        "OSError: [Errno 122] Disk quota exceeded",
    ],
    FailureClass.DEFECT: ["ValueError: bad", "KeyError: 'x'", "AssertionError"],
}


def of_message(message):
    frame = [
        '  File "/x/tcp_store.py", line 1, in f',
        '    raise ValueError("NCCL error, out of memory, CUDA error(1)")',
    ]
    return classify(["Traceback (most recent call last):", *frame, *message.splitlines()])


@pytest.mark.parametrize(
    "kind, message", [(kind, message) for kind, messages in MESSAGES.items() for message in messages]
)
def test_the_message_of_an_exception(kind, message):
    """Not the source code in its traceback, which may contain any words."""
    assert of_message(message) is kind


@pytest.mark.parametrize(
    "signal, reason, kind",
    [
        ("SIGSEGV", "Segmentation fault", FailureClass.DEFECT),
        ("SIGBUS", "Access to an undefined portion of a memory object", FailureClass.STORAGE),
        ("SIGABRT", "Process abort signal", FailureClass.DEFECT),
    ],
)
def test_signals_as_paddle_reports_them(signal, reason, kind):
    lines = ["step 7", *PADDLE_SIGNAL.format(reason, signal).splitlines()]
    assert last_error(lines)[0].startswith("FatalError: ") and classify(last_error(lines)) is kind


def test_a_crash_is_reported_with_the_python_stack_of_faulthandler():
    stack = ["Fatal Python error: Bus error", "", "Current thread 0x1 (most recent call first):", '  File "x.py"']
    handled = ["Traceback (most recent call last):", "KeyError: 1"]  # an error that the program has survived
    lines = [*handled, "step 7", *stack, *PADDLE_SIGNAL.format("Bus", "SIGBUS").splitlines()]
    assert last_error(lines)[: len(stack)] == stack and classify(last_error(lines)) is FailureClass.STORAGE


@pytest.mark.parametrize(
    "line, kind",
    [
        ("vilg: none.txt: no such file or directory", FailureClass.USER),
        ("vilg: text.length=3: must be between 4 and 256", FailureClass.USER),
        ("vilg: step 4: not finite (loss nan)", FailureClass.USER),
        ("vilg: runs/x: rank 1 could not write its file: [Errno 5] Input/output error", FailureClass.STORAGE),
        ("vilg: runs/x/metrics.jsonl: no space left on device; free some space", FailureClass.STORAGE),
        ("vilg: s3://bucket/run: [Errno 111] Connection refused", FailureClass.COMMUNICATION),
    ],
)
def test_one_line_errors_are_the_users_unless_they_quote_an_error_of_a_machine(line, kind):
    assert classify([line]) is kind


def test_a_rank_without_an_error_was_killed_for_lack_of_memory_if_the_kernel_says_so(tmp_path):
    assert classify([]) is FailureClass.KILLED and classify([], out_of_memory=True) is FailureClass.OUT_OF_MEMORY
    (tmp_path / "vmstat").write_text("nr_free_pages 12\noom_kill 3\n")
    assert _oom_kills(tmp_path / "vmstat") == 3 and _oom_kills(tmp_path / "none") == 0
