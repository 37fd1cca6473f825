"""Which failures end a job for good."""

import pytest

from vilg.distributed.launch.failure_class import FailureClass
from vilg.distributed.launch.restarts import Restarts


def gives_up(*failures):
    """After which of the failures (class, step) the job is given up."""
    restarts = Restarts()
    return [restarts.reason_to_give_up(*failure) is not None for failure in failures]


def test_bad_input_is_never_restarted():
    assert gives_up((FailureClass.USER, 0)) == [True]


@pytest.mark.parametrize("kind", [FailureClass.DEFECT, FailureClass.OUT_OF_MEMORY])
def test_a_defect_that_repeats_at_the_same_step_is_given_up(kind):
    assert gives_up((kind, 7), (kind, 7), (kind, 7)) == [False, False, True]
    assert not any(gives_up((kind, 7), (kind, 7), (kind, 8), (kind, 8)))
    assert not any(gives_up((kind, 7), (kind, 7), (FailureClass.KILLED, 7), (kind, 7)))


@pytest.mark.parametrize(
    "kind",
    [FailureClass.DEVICE, FailureClass.COMMUNICATION, FailureClass.STORAGE, FailureClass.KILLED, None],
)
def test_failures_of_machines_are_always_restarted(kind):
    assert not any(gives_up(*[(kind, 0)] * 9))
