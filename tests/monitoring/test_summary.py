"""The state of a run and where its time goes, from written lines."""

import json
import os
from dataclasses import asdict

import pytest

from vilg.distributed.folder_lock import HEARTBEAT_LIMIT_S, NAME, Holder
from vilg.monitoring.run_folder import RunFolder
from vilg.monitoring.summary import summarize


def run_folder(folder, lines, **train):
    folder.mkdir(exist_ok=True)
    (folder / "settings.yaml").write_text(
        json.dumps({"train": {"steps": 100, **train}, "cluster": {"stall_timeout": 600}})
    )
    if lines is not None:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = RunFolder(folder)
    run.update()
    return run


def held(folder, heartbeat, **changed):
    """A lock of this process, with its last heartbeat."""
    folder.mkdir(exist_ok=True)
    (folder / NAME).write_text(json.dumps(asdict(Holder.this_process()) | changed))
    os.utime(folder / NAME, (heartbeat, heartbeat))


def lines(count, pace=1.0, start=1000.0, **values):
    return [
        {"step": step, "timestamp": start + pace * step, "loss": 1.0, "seconds": pace, **values}
        for step in range(1, count + 1)
    ]


@pytest.mark.parametrize(
    "count, pace, silent, state, stalled",
    [
        (10, 1, 2, "running, process", False),
        (10, 1, 59, "running, process", False),
        (10, 1, 100, "no step for 1 min 40 s (usually 1 s at most): slow or stalled, process", True),
        (10, 80, 200, "running, process", False),  # steps of 80 s
        (10, 80, 700, "no step for 11 min 40 s: stalled (over cluster.stall_timeout), process", True),
        (100, 1, 9999, "finished", False),
    ],
)
def test_the_state(tmp_path, count, pace, silent, state, stalled):
    now = 1000 + pace * count + silent
    held(tmp_path / "run", now)
    summary = summarize(run_folder(tmp_path / "run", lines(count, pace)), now)
    assert summary.state.startswith(state) and summary.is_stalled == stalled
    assert (summary.step, summary.steps) == (count, 100)


def test_a_run_without_a_step_and_one_that_stopped_on_purpose(tmp_path):
    held(tmp_path / "new", 5.0)
    assert summarize(run_folder(tmp_path / "new", None), 6.0).state.startswith("started, no step yet, process")
    stopped = summarize(run_folder(tmp_path / "stopped", lines(10), stop_at=10), 1e6)
    assert stopped.state == "ended at train.stop_at=10" and stopped.ended


def test_a_run_whose_job_is_gone(tmp_path):
    """Its lock is released, or was left by a process that was killed, here or on another machine."""
    folder = tmp_path / "run"
    run = run_folder(folder, lines(10))
    assert summarize(run, 1011.0).state == "ended before its last step: no job uses this folder"

    held(folder, 1010.0, started=1)  # another process had this id
    run.update()
    summary = summarize(run, 1011.0)
    assert summary.is_stalled and not summary.ended
    assert summary.state.startswith("ended before its last step: process") and summary.state.endswith("is gone")

    held(folder, 1010.0, machine="another", host="node-7")
    run.update()
    assert summarize(run, 1011.0).state.startswith("running, process")
    state = summarize(run, 1010.0 + HEARTBEAT_LIMIT_S + 1).state
    assert state.startswith("ended before its last step: process") and " on node-7" in state


def test_shares_of_the_time_add_up_and_have_advice(tmp_path):
    """Ten steps of 1 s, each with 0.3 s of waiting; 4 s of evaluation and 1 s of saving on top."""
    written = lines(11, data_seconds=0.3)
    for line in written[5:]:
        line["timestamp"] += 5
    written[5] |= {"evaluation_seconds": 4.0, "save_seconds": 1.0}
    summary = summarize(run_folder(tmp_path / "run", written), 1020.0)
    assert summary.shares == pytest.approx(
        {"computing": 7 / 15, "waiting for data": 3 / 15, "evaluation": 4 / 15, "saving": 1 / 15}
    )
    assert [text.partition(":")[0] for text in summary.advice] == ["waiting for data", "evaluation"]


def test_the_time_between_two_attempts_is_no_part(tmp_path):
    written = lines(20, data_seconds=0.25)
    for line in written[10:]:
        line["timestamp"] += 5000
    assert summarize(run_folder(tmp_path / "run", written), 6020.0).shares == {
        "computing": 0.75,
        "waiting for data": 0.25,
    }


def test_lines_of_an_earlier_version_have_no_times(tmp_path):
    run = run_folder(tmp_path / "run", [{"step": step, "loss": 1.0, "seconds": 1.0} for step in range(1, 9)])
    modified = (tmp_path / "run" / "metrics.jsonl").stat().st_mtime
    summary = summarize(run, modified + 10)
    assert summary.state == "running" and summary.shares == {}
