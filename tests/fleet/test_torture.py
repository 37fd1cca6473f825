"""A run whose ranks are killed at random times has the losses of an uninterrupted run.

docs/reliability.md reports a hundred kills; this test has one.
"""

import json
import sys

import pytest

from tests.conftest import small_overrides
from tests.processes import ROOT, run
from vilg import config

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(240)]


def test_training_survives_kills(small, tmp_path):
    config.save(config.resolve(config.Pretraining, None, small_overrides(tmp_path)), tmp_path / "small.yaml")
    done = run(
        [
            sys.executable,
            "tools/torture.py",
            "-c",
            str(tmp_path / "small.yaml"),
            "--kills",
            "1",
            "--longest",
            "6",
            "cluster.devices_per_node=2",
            "train.steps=30",
            "checkpoint.every_steps=2",
            "distributed.stage=3",
            "distributed.segment_size=0",
        ],
        ROOT,
        seconds=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] == 1 and result["steps"] == 30 and result["equal_to_the_last_bit"]
