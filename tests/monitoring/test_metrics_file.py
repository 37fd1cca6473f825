"""Reading metrics.jsonl while a run appends to it, cuts it, or replaces it."""

import json

from vilg.monitoring.metrics_file import MetricsFile


def line(step, **values):
    return json.dumps({"step": step, "loss": 1 / step, **values}).encode() + b"\n"


def steps(file):
    file.update()
    return [values["step"] for values in file.lines]


def append(path, data):
    with path.open("ab") as opened:
        opened.write(data)


def test_only_what_was_appended_is_read_again(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    assert steps(file) == []
    append(file.path, line(1) + line(2))
    assert steps(file) == [1, 2]
    first = file.lines[0]
    append(file.path, line(3))
    assert steps(file) == [1, 2, 3] and file.lines[0] is first
    assert steps(file) == [1, 2, 3]


def test_a_torn_line_waits_for_its_end(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    append(file.path, line(1) + line(2)[:8])
    assert steps(file) == [1]
    append(file.path, line(2)[8:] + line(3))
    assert steps(file) == [1, 2, 3]


def test_damaged_lines_are_skipped(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    append(
        file.path, line(1) + b'\x00\x00{"step"\n[]\n\n{"loss": 1}\n{"step": "x"}\n\xff\n' + line(2, note="text", lr=0.1)
    )
    assert steps(file) == [1, 2]
    assert file.lines[1] == {"step": 2, "loss": 0.5, "lr": 0.1}


def test_a_resumed_run_repeats_steps(tmp_path):
    """It cuts the file, and may have passed the old length before the next look."""
    file = MetricsFile(tmp_path / "metrics.jsonl")
    append(file.path, b"".join(map(line, range(1, 6))))
    assert steps(file) == [1, 2, 3, 4, 5]
    cut = len(b"".join(map(line, range(1, 4))))
    with file.path.open("rb+") as opened:
        opened.truncate(cut)
    append(file.path, b"".join(line(step, lr=0.25) for step in range(4, 9)))
    assert steps(file) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert file.lines[3]["lr"] == 0.25

    file.path.unlink()
    assert steps(file) == []
    append(file.path, line(1))
    assert steps(file) == [1]


def test_a_long_run_is_kept_as_columns_and_its_last_lines(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    append(file.path, b"".join(line(step, **({"lr": 0.5} if step % 2 else {})) for step in range(1, 3001)))
    append(file.path, b'{"step": 3001, "loss": NaN}\n')
    assert steps(file) == [*range(2002, 3002)]
    assert list(file.series["loss"][0]) == [*range(1, 3001)] and file.series["loss"][1][1] == 0.5
    assert list(file.series["lr"][0]) == [*range(1, 3001, 2)]
