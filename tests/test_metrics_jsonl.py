"""Steps in a metrics.jsonl with damaged lines."""

from vilg.metrics_jsonl import last_step


def test_the_last_recorded_step(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert last_step(file) == 0
    file.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo')
    assert last_step(file) == 2
    file.write_text("x" * 2**17 + '\n{"step": 9}\n')
    assert last_step(file) == 9
