"""`vilg bench attention` runs and reports the expected fields. Speed is not tested."""

import json

from tests.attention.kernel import library
from vilg.bench.attention import BACKENDS, PATTERNS, table
from vilg.cli import main

SMALL = ["bench", "attention", "--heads", "2", "--head-size", "32", "--text", "5", "--grid", "6", "--repeats", "1"]


def test_json_and_table_have_every_backend_pattern_and_direction(capsys):
    library()  # builds it first, so that the output has no message of the compiler
    assert main([*SMALL, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["matmul_gflops"] > 0 and result["shape"]["grid"] == [6, 6]
    assert {(row["pattern"], row["backend"]) for row in result["rows"]} == {(p, b) for p in PATTERNS for b in BACKENDS}
    assert len(result["rows"]) == 2 * len(PATTERNS) * len(BACKENDS)
    assert {row["pattern"] for row in result["decoding"]["rows"]} == {*PATTERNS, "full"}
    assert 0 < result["decoding"]["cache_share"] < 1
    for row in result["rows"]:
        assert row["both_ms"] > 0 and row["forward_ms"] > 0
        assert ("forward_rate" in row) == (row["backend"] == "operator")
        if row["backend"] == "sdpa":
            assert row["times_sdpa"] == 1 and row["memory_share"] == 1
    assert len(table(result).splitlines()) == 2 + len(result["rows"]) + 6
