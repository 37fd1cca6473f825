"""A run belongs to one job: a second one is refused, long steps keep it, and the end of the run gives it back."""

import os
import threading
import time

import pytest

from vilg import config
from vilg.cli import main
from vilg.distributed.folder_lock import FolderLock
from vilg.distributed.world import World
from vilg.training import run_lock
from vilg.training.entry_points import pretrain


def overrides(settings, tmp_path):
    file = tmp_path / "settings.yaml"
    config.save(settings, file)
    return ["-c", str(file)]


@pytest.mark.parametrize("folder", ["runs/run", "elsewhere/run"])
def test_a_second_job_is_refused_in_one_line_and_changes_nothing(small, tmp_path, capsys, folder):
    """Also a run in another folder that saves to the same place."""
    small.checkpoint.folder = str(tmp_path / "elsewhere")
    first = FolderLock(tmp_path / folder)
    first.acquire()
    assert main(["pretrain", *overrides(small, tmp_path)]) == 1
    err = capsys.readouterr().err
    assert f"vilg: {tmp_path / folder}: another job uses this folder: process {os.getpid()} on" in err
    assert not (small.run.folder / "metrics.jsonl").exists() and first.beat()
    first.release()
    pretrain(small)
    assert sorted(os.listdir(tmp_path / "elsewhere" / "run")) == ["step-00000003", "step-00000006"]
    assert "lock" not in os.listdir(small.run.folder)


def test_the_lock_is_fresh_during_a_long_step_and_untouched_after_the_run(small, monkeypatch):
    monkeypatch.setattr(run_lock, "HEARTBEAT_S", 0.05)
    lock = small.run.folder / "lock"
    before = threading.active_count()
    with run_lock.run_lock(small, World()):
        seen = {lock.stat().st_mtime_ns for _ in range(20) if time.sleep(0.05) is None}
        assert len(seen) > 5
    assert threading.active_count() == before and not lock.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_a_run_that_fails_gives_the_lock_back(small, error):
    before = threading.active_count()
    with pytest.raises(error), run_lock.run_lock(small, World()):
        raise error
    assert threading.active_count() == before and not small.run.folder.exists()


def test_a_job_whose_run_was_taken_over_ends(small, monkeypatch):
    """It was suspended for so long that it counted as gone. Its next checkpoint would damage those of the other job."""
    monkeypatch.setattr(run_lock, "HEARTBEAT_S", 0.05)
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: (ended.set(), time.sleep(0.2)))
    with run_lock.run_lock(small, World()):
        file = small.run.folder / "lock"
        file.write_text(file.read_text().replace('"token": "', '"token": "other'))
        assert ended.wait(5)
