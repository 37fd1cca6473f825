"""Seconds of the parts of a run, and the time to its end, on a clock that the test sets."""

import itertools

import pytest

from vilg.training import step_timer
from vilg.training.step_timer import StepTimer


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    monkeypatch.setattr(step_timer, "time", Clock())
    return step_timer.time


def test_parts_add_up_until_they_are_taken(clock):
    timer = StepTimer()
    for seconds in (2.0, 3.0):
        with timer.part("save"):
            clock.now += seconds
        clock.now += 50  # belongs to no part
    assert timer.take() == {"save_seconds": 5.0}
    assert timer.take() == {}


def test_a_part_that_fails_counts(clock):
    timer = StepTimer()
    with pytest.raises(KeyError), timer.part("evaluation"):
        clock.now += 4
        raise KeyError
    assert timer.take() == {"evaluation_seconds": 4.0}


def test_the_time_to_get_each_item_counts(clock):
    def slow():
        for number in itertools.count():
            clock.now += 1
            yield number

    timer = StepTimer()
    items = timer.each("data", slow())
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    clock.now += 10
    assert timer.take() == {"data_seconds": 3.0}


def test_the_time_to_the_end_follows_the_mean_pace_without_the_first_step(clock):
    """Steps of 2 s, one evaluation of 6 s: 12 s for 3 steps after the first one, which took 60 s."""
    timer = StepTimer()
    clock.now += 60
    assert timer.end_step(60.0, 8, 9 * 8) == 540
    clock.now += 2
    assert timer.end_step(2.0, 8, 8 * 8) == 16
    clock.now += 2 + 6
    timer.end_step(2.0, 8, 7 * 8)
    clock.now += 2
    assert timer.end_step(2.0, 8, 6 * 8) == 6 * 12 / 3
    assert timer.end_step(2.0, 8, 0) == 0


def test_the_time_to_the_end_follows_samples_while_the_batch_grows(clock):
    """A step of 4 samples in 2 s and one of 16 in 8 s: half a second a sample."""
    timer = StepTimer()
    timer.end_step(60.0, 4, 1000)
    for samples in (4, 16):
        clock.now += samples / 2
        left = timer.end_step(samples / 2, samples, 100)
    assert left == 50
