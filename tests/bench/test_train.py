"""The benchmark of training steps runs, and its figures are consistent."""

import json

import pytest

from vilg.attention import operator
from vilg.bench.train import BACKENDS, table
from vilg.cli import main

SMALL = [
    "bench",
    "train",
    "model.layers=2",
    "model.hidden=32",
    "model.heads=1",
    "text.length=5",
    "data.image_size=48",
    "train.micro_batch=1",
    "--steps",
    "1",
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_json_and_table_have_every_backend(capsys, precision):
    if precision == "bf16" and operator.why_no_half_kernels():
        pytest.skip(operator.why_no_half_kernels())
    arguments = [*SMALL, f"distributed.precision={precision}"]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    in_fp32 = [("operator", "fp32")] if precision == "bf16" else []
    rows = [(row["backend"], row["precision"]) for row in result["rows"]]
    assert rows == [(name, precision) for name in BACKENDS] + in_fp32
    assert result["tokens"] == 2 * (5 + 36)
    assert all(row["tokens_per_second"] > 0 and 0 < row["matmul_share"] < 1 for row in result["rows"])
    assert ("faster_than_fp32" in result) == (precision == "bf16")
    assert len(table(result).splitlines()) == 2 + len(rows) + len(in_fp32)
