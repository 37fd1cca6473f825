"""Curves for VisualDL, as its own reader sees them, through resumes and kills."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
from visualdl import LogReader, LogWriter
from visualdl.proto import record_pb2

from vilg.training import visualdl_log
from vilg.training.visualdl_log import VisualDLLog


def write(folder, after, *steps):
    log = VisualDLLog(folder, after)
    for step in steps:
        log.write_scalars(step, {"loss": 1 / step, "grad_norm/text_head": step + 0.5}, 1e9 + step)
        if step % 2 == 0:
            log.write_image("heldout", np.full([4, 4, 3], step, np.uint8), step)
    log.close()


def points(folder, component="scalar", tag="loss"):
    """What the server shows of a folder: the newest log in it."""
    newest = sorted(folder.glob("vdlrecords*"))[-1]
    return [record.id for record in LogReader(file_path=str(newest)).get_data(component, tag)]


def test_the_reader_finds_values_times_and_images(tmp_path):
    write(tmp_path, 0, 1, 2, 3)
    (log,) = tmp_path.iterdir()
    reader = LogReader(file_path=str(log))
    assert reader.get_tags()["scalar"] == ["loss", "grad_norm/text_head"]
    loss, norms = (reader.get_data("scalar", tag) for tag in ("loss", "grad_norm/text_head"))
    assert [record.value for record in loss] == pytest.approx([1, 1 / 2, 1 / 3])
    assert [record.timestamp for record in loss] == [1_000_000_001_000, 1_000_000_002_000, 1_000_000_003_000]
    assert [record.value for record in norms] == [1.5, 2.5, 3.5]
    assert points(tmp_path, "image", "heldout") == [2]


@pytest.mark.parametrize("resumed_at", [0, 1, 3, 5, 9])
def test_a_resumed_run_repeats_no_step_and_loses_none(tmp_path, resumed_at):
    write(tmp_path, 0, *range(1, 6))
    following = range(resumed_at + 1, 12)
    write(tmp_path, resumed_at, *following)
    assert points(tmp_path) == [*range(1, min(resumed_at, 5) + 1), *following]
    images = points(tmp_path, "image", "heldout")
    assert images == [step for step in points(tmp_path) if step % 2 == 0]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("end", [b"\x00" * 40, b"\x07\x00\x00\x00\x00\x00\x00\x00abc", b"\x03\x00", b"\xff" * 30])
def test_a_torn_record_is_removed(tmp_path, end):
    write(tmp_path, 0, 1, 2)
    (log,) = tmp_path.iterdir()
    with log.open("ab") as file:
        file.write(end)
    write(tmp_path, 2, 3)
    assert points(tmp_path) == [1, 2, 3]


def test_every_cut_of_a_log_leaves_complete_records(tmp_path):
    """A kill or a full disk may end the file anywhere."""
    write(tmp_path, 0, 1, 2, 3)
    (log,) = tmp_path.iterdir()
    size = log.stat().st_size
    for end in range(size - 1, 0, -7):
        os.truncate(log, end)
        write(tmp_path, 3)
        assert points(tmp_path, "meta_data", "meta_data_tag") == [0]
        assert log.stat().st_size <= max(end, 40)


def test_the_log_of_an_earlier_version_is_continued(tmp_path):
    with LogWriter(logdir=str(tmp_path)) as writer:
        for step in range(1, 5):
            writer.add_scalar("loss", 1 / step, step)
    write(tmp_path, 3, 4, 5)
    assert points(tmp_path) == [1, 2, 3, 4, 5]


def test_finding_the_end_of_a_step_reads_few_records(tmp_path, monkeypatch):
    log = VisualDLLog(tmp_path, 0)
    for step in range(1, 5001):
        log.write_scalars(step, {"loss": 1.0, "lr": 1.0}, 1e9)
    log.close()
    parsed = []

    def parse(data, original=record_pb2.Record.FromString):
        parsed.append(data)
        return original(data)

    with monkeypatch.context() as patch:
        patch.setattr(record_pb2, "Record", SimpleNamespace(FromString=parse))
        end = visualdl_log._end_of_step(next(tmp_path.iterdir()), 1234)
    assert len(parsed) < 20
    os.truncate(next(tmp_path.iterdir()), end)
    assert points(tmp_path)[-1] == 1234
