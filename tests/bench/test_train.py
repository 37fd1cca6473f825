"""The benchmark of training steps runs, and its figures are consistent."""

import json

from vilg.bench.train import BACKENDS
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


def test_json_and_table_have_every_backend(capsys):
    assert main([*SMALL, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["backend"] for row in result["rows"]] == list(BACKENDS)
    assert result["tokens"] == 2 * (5 + 36)
    assert all(row["tokens_per_second"] > 0 and 0 < row["matmul_share"] < 1 for row in result["rows"])
    assert main(SMALL) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(BACKENDS)
