"""The benchmark of text-to-image generation runs, and its figures are consistent."""

import json

import pytest

from vilg.attention import operator
from vilg.bench.generate import table
from vilg.cli import main

SMALL = [
    "bench",
    "generate",
    "model.layers=2",
    "model.hidden=32",
    "model.heads=1",
    "text.length=5",
    "data.image_size=48",
]


def test_json_and_table_have_every_method_and_batch_size(capsys):
    assert main([*SMALL, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    ways = [(way, batch) for batch in (1, 8) for way in ("uncached", "dense", "windowed", "exported")]
    in_bf16 = [] if operator.why_no_half_kernels() else [("in bf16", 1), ("in bf16", 8)]
    assert [(row["way"], row["batch"]) for row in result["rows"]] == ways + in_bf16
    assert result["tokens"] == 36
    for row in result["rows"]:
        assert row["seconds_an_image"] == pytest.approx(36 / row["tokens_per_second"])
        assert row["tokens_per_second"] == pytest.approx(36 * row["batch"] / row["seconds"])
        assert row["floor_share"] == pytest.approx(result["floor_seconds"] / row["seconds"])
    dense, windowed = (row["cache_bytes"] for row in result["rows"][1:3])
    assert 0 < windowed < dense
    lines = table(result).splitlines()
    assert len(lines) == 2 + len(result["rows"]) and "s/image" in lines[1] and len(set(map(len, lines[1:]))) == 1
