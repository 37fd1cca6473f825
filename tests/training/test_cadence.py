"""What is due, by steps and by a clock that the test sets."""

from types import SimpleNamespace

import pytest

from vilg.training import cadence
from vilg.training.cadence import Cadence, Interval


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(cadence, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def due_steps(clock, interval: Interval, seconds: float, last: int, is_rank_zero: bool = True) -> list[int]:
    """The steps of `seconds` after which `interval` is due."""
    world = SimpleNamespace(is_rank_zero=is_rank_zero)
    ours = Cadence(world, {"checkpoint": interval, "evaluation": Interval(0, 0)})
    found = []
    for step in range(1, last + 1):
        overdue = ours.overdue()
        clock.now += seconds
        assert not ours.is_due("evaluation", step, step == last, overdue)
        if ours.is_due("checkpoint", step, step == last, overdue):
            found.append(step)
    return found


@pytest.mark.parametrize(
    "steps, minutes, expected",
    [
        (3, 0, [3, 6, 9, 10]),
        (0, 1, [4, 8, 10]),  # steps of 25 s: after 75 s the next step is the last one before
        (5, 1, [4, 5, 9, 10]),
    ],
)
def test_steps_and_minutes(clock, steps, minutes, expected):
    assert due_steps(clock, Interval(steps, minutes), 25, 10) == expected


def test_only_the_clock_of_rank_zero_counts(clock):
    assert due_steps(clock, Interval(0, 1), 25, 10, is_rank_zero=False) == [10]


def test_what_is_never_due_is_not_due_at_the_end(clock):
    assert due_steps(clock, Interval(0, 0), 25, 10) == []
