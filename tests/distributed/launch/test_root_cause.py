"""Finding the error that caused the errors of the other ranks."""

from vilg.distributed.launch.failure_class import FailureClass
from vilg.distributed.launch.root_cause import RankFailure, describe, root_cause

OWN = RankFailure(
    "b rank 3", ["step 7", "Traceback (most recent call last):", '  File "x.py", line 1', "ValueError: bad"]
)
LOST = RankFailure(
    "a rank 0", ["Traceback (most recent call last):", "  ..", "OSError: Connection closed by peer [::1]:5"]
)
KILLED = RankFailure("a rank 1", ["step 6", "step 7"])
REFUSED = RankFailure("a rank 1", ["vilg: nothing.txt: no such file or directory"])


def test_a_rank_that_only_lost_its_peer_is_not_the_cause():
    assert root_cause([LOST, OWN]) is OWN and root_cause([LOST, KILLED]) is KILLED
    assert root_cause([OWN, KILLED]) is OWN and root_cause([LOST]) is LOST and root_cause([]) is None


def test_only_the_last_traceback_is_shown():
    assert describe(OWN).splitlines() == [
        "defect, b rank 3:",
        "    Traceback (most recent call last):",
        '      File "x.py", line 1',
        "    ValueError: bad",
    ]
    twice = RankFailure("rank 0", ["Traceback (most recent call last):", "KeyError", *OWN.lines[1:]])
    assert "KeyError" not in describe(twice)


def test_a_killed_rank_has_no_error_message():
    assert describe(KILLED) == "killed: a rank 1 was killed: there is no error in its log"
    out_of_memory = RankFailure("a rank 1", ["step 7"], out_of_memory=True)
    assert describe(out_of_memory).startswith("out of memory: a rank 1 was killed: the kernel ended processes")


def test_ranks_that_fleetrun_has_stopped_are_not_the_cause():
    """They die without an error, some time after a rank whose own error is one of communication."""
    stopped, at_once = (RankFailure("b rank 2", ["step 7"], seconds) for seconds in (30.0, 0.5))
    assert root_cause([LOST, stopped]) is LOST and root_cause([LOST, at_once]) is at_once


def test_only_bad_input_is_permanent():
    assert REFUSED.failure_class is FailureClass.USER and OWN.failure_class is FailureClass.DEFECT
    assert KILLED.failure_class is FailureClass.KILLED and LOST.failure_class is FailureClass.COMMUNICATION
