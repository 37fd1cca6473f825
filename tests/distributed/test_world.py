"""The world of one process; that of two is in tests/fleet."""

import signal
import sys

import paddle
import pytest

from tests.processes import run
from vilg.distributed.world import World
from vilg.errors import SettingsError, UserError


def test_alone_every_collective_is_the_identity():
    world = World()
    assert (world.rank, world.ranks, world.is_rank_zero) == (0, 1, True)
    assert world.sum({"a": 1.5}) == {"a": 1.5} and world.gather("x") == ["x"]
    rows = paddle.arange(6).reshape([3, 2])
    assert world.interleave(rows) is rows and world.sum_tensor(rows) is rows
    world.barrier()


def test_together_passes_bad_input_on_as_it_is():
    world = World()
    with world.fail_together():
        pass
    with pytest.raises(SettingsError, match="no such key") as caught, world.fail_together():
        raise SettingsError("no such key")
    assert isinstance(caught.value, UserError) and caught.value.exit_code == 2


def test_together_does_not_hide_a_defect():
    with pytest.raises(ZeroDivisionError), World().fail_together():
        raise ZeroDivisionError


def test_a_rank_that_is_ended_says_nothing(tmp_path):
    """fleetrun ends the peers of a failed rank with SIGTERM; Paddle would print the report of a crash for it."""
    program = "import vilg, os; from vilg.distributed.world import World; World(); os.kill(os.getpid(), 15)"
    ended = run([sys.executable, "-c", program], cwd=tmp_path)
    assert ended.returncode == -signal.SIGTERM
    assert ended.stdout == "" and "FatalError" not in ended.stderr
