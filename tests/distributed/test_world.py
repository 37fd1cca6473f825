"""The world of one process; tests/fleet has that of two."""

import signal
import sys

import paddle
import pytest

from tests.processes import run
from vilg.distributed.world import World
from vilg.errors import SettingsError, UserError


def test_every_collective_of_one_rank_is_the_identity():
    world = World()
    assert (world.rank, world.ranks, world.is_rank_zero) == (0, 1, True)
    assert world.sum({"a": 1.5}) == {"a": 1.5} and world.gather("x") == ["x"]
    rows = paddle.arange(6).reshape([3, 2])
    assert world.interleave(rows) is rows and world.sum_tensor(rows) is rows
    world.barrier()


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"PADDLE_TRAINERS_NUM": "2"}, "PADDLE_TRAINERS_NUM=2, but PADDLE_TRAINER_ID is not set: start with fleetrun"),
        (
            {"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": "0"},
            "but PADDLE_MASTER or PADDLE_TRAINER_ENDPOINTS is not set",
        ),
        ({"PADDLE_TRAINERS_NUM": "x"}, "PADDLE_TRAINERS_NUM=x: not a number of processes"),
        ({"PADDLE_LOCAL_SIZE": "0"}, "PADDLE_LOCAL_SIZE=0: not a number of processes"),
    ],
)
def test_variables_of_fleetrun_without_fleetrun(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        World()


def test_fail_together_raises_the_same_user_error():
    world = World()
    with world.fail_together():
        pass
    with pytest.raises(SettingsError, match="no such key") as caught, world.fail_together():
        raise SettingsError("no such key")
    assert isinstance(caught.value, UserError) and caught.value.exit_code == 2


def test_fail_together_does_not_hide_other_exceptions():
    with pytest.raises(ZeroDivisionError), World().fail_together():
        raise ZeroDivisionError


def test_a_terminated_rank_prints_no_traceback(tmp_path):
    """fleetrun ends the peers of a failed rank with SIGTERM, for which Paddle would print a crash report."""
    program = "import vilg, os; from vilg.distributed.world import World; World(); os.kill(os.getpid(), 15)"
    ended = run([sys.executable, "-c", program], cwd=tmp_path)
    assert ended.returncode == -signal.SIGTERM
    assert ended.stdout == "" and "FatalError" not in ended.stderr
