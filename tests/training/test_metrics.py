"""Metrics of a run: appended, cut where a run resumes, and readable after a kill at any time."""

import json
import os

import numpy as np
import pytest

from vilg import config
from vilg.training import metrics
from vilg.training.metrics import MetricsWriter


def lines(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(folder, step, *steps):
    writer = MetricsWriter(folder, step)
    for number in steps:
        writer.write_metrics({"step": number, "timestamp": 1e9 + number, "loss": 1 / number})
    writer.close()


def test_resuming_removes_later_steps_without_writing_the_file_again(tmp_path, monkeypatch):
    write(tmp_path, 0, 1, 2, 3, 4)
    before = os.stat(tmp_path / "metrics.jsonl")
    monkeypatch.setattr(metrics, "write_atomically", lambda *_: pytest.fail("written again"))
    write(tmp_path, 2, 3, 4, 5)
    assert lines(tmp_path) == [1, 2, 3, 4, 5] and os.stat(tmp_path / "metrics.jsonl").st_ino == before.st_ino
    write(tmp_path, 0)
    assert lines(tmp_path) == []


@pytest.mark.parametrize(
    "damage, expected",
    [
        (b'{"step": 3, "lo', [1, 2]),
        (b"\x00" * 4096, [1, 2]),
        (b'\x00\x00{"step": 3}\n', [1, 2]),
        (b'[]\n{"loss": 1}\n\n{"step": 3}\n', [1, 2, 3]),
        (b"\xff\xfe\n", [1, 2]),
    ],
)
def test_damaged_lines_do_not_stop_a_resume(tmp_path, caplog, damage, expected):
    write(tmp_path, 0, 1, 2)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(damage)
    write(tmp_path, 3, 4)
    assert lines(tmp_path) == [*expected, 4]
    assert "damaged lines are removed" in caplog.text


def test_a_kill_while_damaged_lines_are_removed_loses_nothing(tmp_path, monkeypatch):
    write(tmp_path, 0, 1)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'?\n{"step": 2}\n')
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", kill)
        MetricsWriter(tmp_path, 5)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before and not list(tmp_path.glob(".*"))
    write(tmp_path, 5)
    assert lines(tmp_path) == [1, 2]


def test_settings_and_images_are_complete_or_absent(tmp_path, monkeypatch):
    settings = config.resolve(config.Pretraining, None, [])
    config.save(settings, tmp_path / "settings.yaml")
    writer = MetricsWriter(tmp_path, 0)
    writer.write_images(1, {"x": np.zeros([4, 4, 3], np.uint8)})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    def kill(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", kill)
    for write_again in (
        lambda: config.save(settings, tmp_path / "settings.yaml"),
        lambda: writer.write_images(2, {"x": np.ones([4, 4, 3], np.uint8)}),
    ):
        with pytest.raises(KeyboardInterrupt):
            write_again()
    monkeypatch.undo()
    writer.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
