"""The number of steps of the demo; `make demo` runs the rest."""

import json
import runpy
from types import SimpleNamespace

import pytest

from tests.processes import ROOT


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.chdir(ROOT)
    return SimpleNamespace(**runpy.run_path("tools/demo.py"))


def test_steps_fit_into_the_time_and_do_not_exceed_the_settings(demo):
    assert demo.steps_that_fit(440, 0.2) == 2200
    assert demo.steps_that_fit(1e6, 0.2) == demo.STEPS


def test_a_slow_machine_trains_a_minimum_of_steps(demo):
    assert demo.steps_that_fit(-30, 2.0) == demo.steps_that_fit(1, 2.0) == 200


def test_the_first_steps_are_not_timed(demo, tmp_path):
    seconds = [9.0] * 8 + [0.3, 0.2, 0.4] * 5 + [7.0]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"seconds": one}) + "\n" for one in seconds))
    assert demo.seconds_a_step(tmp_path) == 0.3
