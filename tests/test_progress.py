"""Progress without a terminal: plain lines at intervals, and always the last one."""

import pytest

from vilg import progress
from vilg.progress import Progress, clock, duration


def lines(capsys, monkeypatch, seconds_a_step, total=50, start=0, **arguments):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("job", total, start, **arguments) as shown:
        for _ in range(start, total):
            now[0] += seconds_a_step
            shown.advance(loss=0.5)
    return capsys.readouterr().err.splitlines()


def test_prints_a_line_every_ten_seconds_and_one_at_the_end(capsys, monkeypatch):
    written = lines(capsys, monkeypatch, seconds_a_step=1.0)
    assert [line.split()[1] for line in written] == ["10/50", "20/50", "30/50", "40/50", "50/50"]
    assert written[0] == "job: 10/50  loss 0.5  0:10, 0:40 left"


def test_remaining_time_counts_only_the_steps_of_this_process(capsys, monkeypatch):
    assert lines(capsys, monkeypatch, seconds_a_step=10.0, start=40)[0] == "job: 41/50  loss 0.5  0:10, 1:30 left"


def test_quiet_ranks_print_nothing(capsys, monkeypatch):
    assert lines(capsys, monkeypatch, seconds_a_step=100.0, quiet=True) == []


def test_clock():
    assert [clock(seconds) for seconds in (0, 59.6, 75, 3600)] == ["0:00", "1:00", "1:15", "60:00"]
    assert [clock(seconds) for seconds in (5999, 6000, 302 * 86400)] == ["99:59", "1 h 40 min", "302 d 00 h"]


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (18420, "5 h 07 min"), (1e6, "11 d 13 h")]
)
def test_durations_have_two_units(seconds, text):
    assert duration(seconds) == text
