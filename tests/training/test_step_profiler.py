"""train.profile: traces of some steps, written by real runs on a CPU."""

import json

import pytest

from tests.training.test_pretraining import changed, exact
from vilg import config
from vilg.errors import SettingsError
from vilg.training.entry_points import pretrain


def traces(settings):
    return sorted((settings.run.folder / "profile").glob("*.paddle_trace.json"))


def events(file) -> list[str]:
    """The names of the events of a trace in Chrome's format: each has a phase, and complete ones a time and a
    duration in microseconds.
    """
    found = [event for event in json.loads(file.read_text())["traceEvents"] if event]  # Paddle ends with an empty one
    assert all("ph" in event for event in found)
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in found if event["ph"] == "X")
    return [event["name"] for event in found if event["ph"] == "X"]


def count(names, text):
    return len([name for name in names if text in name])


def test_a_trace_covers_the_chosen_steps_and_changes_nothing(small):
    plain, profiled = changed(small, run={"name": "plain"}), changed(small, train={"profile": [3, 4]})
    pretrain(plain)
    pretrain(profiled)
    (file,) = traces(profiled)
    assert file.name.startswith("rank-00000_time_") and not traces(plain)
    names = events(file)
    assert count(names, "ProfileStep") == 2 and count(names, "matmul") > 20
    assert exact(profiled.run.folder) == exact(plain.run.folder)


@pytest.mark.parametrize("train", [{"stop_at": 3}, {"steps": 3}])
def test_a_run_that_ends_during_the_trace_leaves_it(small, train):
    pretrain(changed(small, train={"profile": [2, 5], **train}))
    (file,) = traces(small)
    assert count(events(file), "ProfileStep") == 3 - 2 + 1


def test_a_run_that_resumes_after_the_steps_writes_no_trace(small):
    pretrain(changed(small, train={"stop_at": 3}))
    pretrain(changed(small, train={"profile": [1, 2]}, resume="auto"))
    assert not traces(small)


def test_other_ranks_write_no_trace(small):
    with pytest.raises(SettingsError, match=r"train.profile_ranks=\[0, 1\]: this job has 1 ranks"):
        pretrain(changed(small, train={"profile": [1, 2], "profile_ranks": [0, 1]}))
    pretrain(changed(small, train={"profile": [1, 2], "profile_ranks": []}))
    assert not traces(small)


@pytest.mark.parametrize("steps", [[3], [1, 2, 3], [5, 3], [3, 3], [0, 2]])
def test_the_first_step_is_smaller_than_the_last(steps):
    with pytest.raises(SettingsError, match=r"train.profile=\[.*\]: must be \[first, last\]"):
        config.resolve(config.Pretraining, None, [f"train.profile={steps}"])
