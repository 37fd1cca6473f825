"""The lock of a folder: refused while its holder works, taken over when it has ended, and never held twice."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from tests.processes import ROOT
from vilg.distributed import folder_lock
from vilg.distributed.folder_lock import NAME, FolderLock, Holder
from vilg.errors import UserError

ELSEWHERE = {"machine": "another boot", "host": "far"}


def held_by(folder, **differences):
    """A lock whose holder differs from this process."""
    holder = replace(Holder.this_process(), **differences)
    (folder / NAME).write_text(json.dumps(asdict(holder)))
    return holder


def holder_in(folder):
    return Holder(**json.loads((folder / NAME).read_text()))


def test_a_second_holder_is_refused_and_told_the_first(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    first, second = FolderLock(tmp_path / "run"), FolderLock(tmp_path / "run")
    first.acquire()
    with pytest.raises(UserError) as refused:
        second.acquire()
    assert f"run: another job uses this folder: process {os.getpid()} on " in str(refused.value)
    assert "(Slurm job 77), since 20" in str(refused.value) and "\n" not in str(refused.value)
    assert os.listdir(tmp_path / "run") == [NAME]
    first.release()
    second.acquire()


def test_a_released_lock_leaves_nothing(tmp_path):
    lock = FolderLock(tmp_path / "run")
    lock.acquire()
    lock.release()
    assert not (tmp_path / "run").exists()
    lock.acquire()
    (tmp_path / "run" / "metrics.jsonl").touch()
    lock.release()
    assert os.listdir(tmp_path / "run") == ["metrics.jsonl"]


@pytest.mark.parametrize("reused", [False, True])
def test_a_process_that_is_gone_loses_the_lock_at_once(tmp_path, caplog, reused):
    """Also if another process has its id by now."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    held_by(tmp_path, **({"started": 1} if reused else {"process": ended.pid}))
    lock, began = FolderLock(tmp_path), time.monotonic()
    lock.acquire()
    assert time.monotonic() - began < 2
    assert holder_in(tmp_path) == lock.holder and os.listdir(tmp_path) == [NAME]
    assert "taken over from process" in caplog.text and "which has ended" in caplog.text


def test_on_another_machine_the_heartbeat_decides(tmp_path):
    """The process id says nothing there. Clocks are not compared: an old heartbeat that moves is one."""
    held_by(tmp_path, **ELSEWHERE)
    os.utime(tmp_path / NAME, (1, 1))
    ending = threading.Event()

    def beat():
        time_of_beat = 2
        while not ending.wait(0.3):
            os.utime(tmp_path / NAME, (time_of_beat, time_of_beat))
            time_of_beat += 1

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(UserError, match="process .* on far, since"):
        FolderLock(tmp_path, heartbeat_limit_s=5).acquire()
    ending.set()
    thread.join()
    began = time.monotonic()
    FolderLock(tmp_path, heartbeat_limit_s=1).acquire()
    assert 1 <= time.monotonic() - began < 3


def test_an_attempt_waits_for_the_end_of_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setenv("VILG_JOB", "abc.0")
    first = FolderLock(tmp_path)
    first.acquire()
    monkeypatch.setenv("VILG_JOB", "abc.1")
    second = FolderLock(tmp_path)
    threading.Timer(0.6, first.release).start()
    second.acquire()
    monkeypatch.setenv("VILG_JOB", "other.0")
    with pytest.raises(UserError, match="another job uses"):
        FolderLock(tmp_path).acquire()
    monkeypatch.setenv("VILG_JOB", "abc.2")
    with pytest.raises(UserError, match="another job uses"):
        FolderLock(tmp_path, heartbeat_limit_s=0.2).acquire()  # it does not end


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    first = FolderLock(tmp_path)
    first.acquire()
    with pytest.raises(UserError, match="another job uses"):
        FolderLock(tmp_path).acquire()
    held_by(tmp_path, started=1)
    second = FolderLock(tmp_path)
    second.acquire()
    assert holder_in(tmp_path) == second.holder


def test_a_lock_without_content_is_one_that_is_just_being_written(tmp_path):
    (tmp_path / NAME).touch()
    threading.Timer(0.4, held_by, (tmp_path,)).start()
    with pytest.raises(UserError, match=f"process {os.getpid()} on"):
        FolderLock(tmp_path, heartbeat_limit_s=20).acquire()
    (tmp_path / NAME).write_bytes(b"")
    FolderLock(tmp_path, heartbeat_limit_s=0.3).acquire()


def test_a_holder_notices_that_it_has_lost_the_lock(tmp_path):
    first = FolderLock(tmp_path)
    first.acquire()
    assert first.beat()
    other = held_by(tmp_path, **ELSEWHERE)
    assert not first.beat()
    first.release()
    assert holder_in(tmp_path) == other


def test_a_failing_file_system_is_no_lost_lock(tmp_path, monkeypatch):
    lock = FolderLock(tmp_path)
    lock.acquire()

    def fail(*_, **__):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(folder_lock, "read_lock", fail)
    assert lock.beat()


RACER = """
import sys
from pathlib import Path
from vilg.distributed.folder_lock import FolderLock
from vilg.errors import UserError

print("ready", flush=True)
for line in sys.stdin:
    lock = FolderLock(Path(line.strip()))
    try:
        lock.acquire()
        print("held", flush=True)
    except UserError:
        print("refused", flush=True)
"""


@pytest.mark.timeout(100)
def test_of_several_processes_exactly_one_takes_a_lock_over(tmp_path):
    """All of them see the same lock of a process that is gone."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for _ in range(4)
    ]
    try:
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"
        for number in range(30):
            folder = tmp_path / str(number)
            folder.mkdir()
            if number % 3:
                held_by(folder, started=1)
            for racer in racers:
                racer.stdin.write(f"{folder}\n")
            said = sorted(racer.stdout.readline() for racer in racers)
            assert said == ["held\n"] + ["refused\n"] * 3
            assert os.listdir(folder) == [NAME]
    finally:
        for racer in racers:
            racer.stdin.close()
            racer.wait()
