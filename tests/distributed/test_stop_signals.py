"""SIGTERM, Ctrl-C and the end of a terminal ask a run to stop; a second Ctrl-C ends it."""

import os
import pty
import signal
import sys
import time

import pytest

from tests.processes import ROOT, run
from vilg.distributed.stop_signals import stop_requested

STOPPABLE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def same_handlers_afterwards():
    before = {number: signal.getsignal(number) for number in STOPPABLE}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPPABLE)
def test_a_signal_asks_to_stop_and_the_handlers_are_restored(number):
    before = signal.getsignal(number)
    with stop_requested() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    assert signal.getsignal(number) == (signal.SIG_IGN if number == signal.SIGTERM else before)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_only_the_second_ctrl_c_interrupts(capfd):
    with pytest.raises(KeyboardInterrupt), stop_requested() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() and "Ctrl-C again ends at once" in capfd.readouterr().err
        os.kill(os.getpid(), signal.SIGINT)


def test_under_nohup_a_hangup_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_requested() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop()


def test_an_error_after_sigterm_has_no_traceback_and_others_have_one():
    with pytest.raises(SystemExit) as caught, stop_requested():
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("a peer is gone")
    assert caught.value.code == 128 + signal.SIGTERM
    with pytest.raises(OSError, match="disk"), stop_requested():
        os.kill(os.getpid(), signal.SIGINT)
        raise OSError("disk")


PRINTS_UNTIL_STOPPED = """
import sys, time
from pathlib import Path
from vilg.distributed.stop_signals import stop_requested
with stop_requested() as stop:
    print("ready", flush=True)
    while not stop():
        time.sleep(0.02)
    time.sleep(0.2)
    print("a line after the terminal is gone", flush=True)
    print("and one more", file=sys.stderr, flush=True)
    Path("saved").touch()
"""


def test_a_closed_terminal_does_not_end_what_follows(tmp_path):
    """Every write to it would be an error, so that a run would end before it has saved."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, [sys.executable, "-c", PRINTS_UNTIL_STOPPED], os.environ | {"PYTHONPATH": str(ROOT)})
    assert b"ready" in os.read(terminal, 100)
    os.close(terminal)
    deadline = time.monotonic() + 20
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (tmp_path / "saved").exists()


def test_repeated_sigterms_do_not_end_a_run_that_has_saved(tmp_path):
    program = (
        "import os, signal\nfrom vilg.distributed.stop_signals import stop_requested\n"
        "with stop_requested():\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nprint('the end')"
    )
    done = run([sys.executable, "-c", program], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "the end\n")
