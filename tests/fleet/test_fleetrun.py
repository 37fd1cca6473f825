"""`vilg fleetrun`: the time that ranks have after SIGTERM, and no process that outlives the others."""

import os
import signal
import sys
import time
from contextlib import contextmanager

import pytest

from tests.processes import ROOT, running, started

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(120)]

# A rank that needs SECONDS to save after a SIGTERM.
RANK = """
import os, signal, sys, time
from pathlib import Path
from vilg.distributed.processes import die_with_fleetrun

folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
rank = os.environ["PADDLE_LOCAL_RANK"]
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
die_with_fleetrun()
(folder / f"started-{rank}").touch()
while not stop:
    time.sleep(0.05)
time.sleep(seconds)
(folder / f"saved-{rank}").touch()
"""


@contextmanager
def two_ranks(folder, seconds: float, *launcher: str):
    """The launcher with two ranks that need `seconds` to save; its processes are those with `folder` as a word."""
    (folder / "rank.py").write_text(RANK)
    log = ["--nproc_per_node", "2", "--log_dir", str(folder / "log")]
    with started([*launcher, *log, str(folder / "rank.py"), str(folder), str(seconds)], folder) as process:
        while len(list(folder.glob("started-*"))) < 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        yield process


def vilg_fleetrun(grace_period: int) -> list[str]:
    return [sys.executable, "-m", "vilg.cli", "fleetrun", "--grace_period", str(grace_period)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_ranks_have_the_time_that_was_asked_for(tmp_path, number):
    with two_ranks(tmp_path, 3, *vilg_fleetrun(60)) as fleetrun:
        fleetrun.send_signal(number)
        fleetrun.wait(30)
    assert len(list(tmp_path.glob("saved-*"))) == 2
    assert not running(str(tmp_path))


def test_ranks_are_killed_when_the_time_is_over(tmp_path):
    """Without the option, Paddle would wait for 30 seconds."""
    with two_ranks(tmp_path, 100, *vilg_fleetrun(1)) as fleetrun:
        fleetrun.send_signal(signal.SIGTERM)
        fleetrun.wait(20)
    assert not list(tmp_path.glob("saved-*"))


@pytest.mark.parametrize(
    "launcher", [vilg_fleetrun(60), [sys.executable, "-m", "paddle.distributed.launch"]], ids=["vilg", "paddle"]
)
def test_ranks_do_not_outlive_fleetrun(tmp_path, launcher):
    with two_ranks(tmp_path, 100, *launcher) as fleetrun:
        assert len(running(str(tmp_path))) == 3
        fleetrun.kill()
        fleetrun.wait()
        deadline = time.monotonic() + 10
        while running(str(tmp_path)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not running(str(tmp_path))


def test_a_rank_whose_fleetrun_has_ended_before_it_looks_ends_too(tmp_path):
    """The kernel reports only later ends, so a rank that starts slowly has to look itself."""
    (tmp_path / "rank.py").write_text(RANK)
    with started([sys.executable, "-c", "pass"], ROOT) as ended:
        ended.wait()
    variables = {"PADDLE_LOCAL_RANK": "0", "VILG_FLEETRUN_PID": str(ended.pid)}
    command = ["env", *(f"{name}={value}" for name, value in variables.items()), sys.executable]
    with started([*command, str(tmp_path / "rank.py"), str(tmp_path), "0"], tmp_path) as rank:
        assert rank.wait(20) == 128 + signal.SIGKILL
    assert not list(tmp_path.glob("started-*"))
    assert os.environ.get("VILG_FLEETRUN_PID") is None
