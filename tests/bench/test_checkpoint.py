"""The checkpoint benchmark runs, and its figures are consistent."""

import pytest

from vilg.bench import checkpoint
from vilg.plan.input_sizes import InputSizes

SMALL = [
    "model.layers=2",
    "model.hidden=64",
    "model.heads=2",
    "text.length=8",
    "data.image_size=16",
    "train.micro_batch=2",
    "train.global_batch=2",
]


def test_whole_benchmark_with_a_small_model(tmp_path):
    result = checkpoint.bench(tmp_path, 4, 1, {"small": (SMALL, InputSizes(50, 40, 4))})
    assert result["write_share"] == pytest.approx(result["write"] / result["plain"])  # there is one repeat
    assert set(result["load"]) == {"1", "2", "3", "4"} and all(seconds > 0 for seconds in result["load"].values())
    stall = result["stall"]["small"]
    assert stall["seconds"] > 0 and stall["share"] == pytest.approx(stall["seconds"] / stall["step_seconds"])
    assert not list(tmp_path.iterdir())
    assert len(checkpoint.table(result).splitlines()) == 1 + 4 + 1
