"""Processes of earlier attempts of a job end before the next attempt starts. Others are left alone."""

import os
import subprocess

import pytest

from vilg.distributed.launch.previous_attempts import end_previous_attempts


@pytest.fixture
def sleeping():
    """job and attempt -> a process that belongs to it."""
    processes = []

    def start(job: str) -> subprocess.Popen:
        processes.append(subprocess.Popen(["sleep", "60"], env=os.environ | {"VILG_JOB": job}))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_only_earlier_attempts_of_the_same_job_are_ended(sleeping, monkeypatch):
    earlier = [sleeping("abc.0"), sleeping("abc.9")]
    others = [sleeping("abc.10"), sleeping("abc.11"), sleeping("abcd.0"), sleeping("")]
    monkeypatch.setenv("VILG_JOB", "abc.10")
    assert end_previous_attempts() == []
    assert [process.wait(1) for process in earlier] == [-9, -9]
    assert [process.poll() for process in others] == [None] * 4


def test_without_a_launcher_nothing_is_ended(sleeping, monkeypatch):
    other = sleeping("abc.0")
    monkeypatch.delenv("VILG_JOB", raising=False)
    assert end_previous_attempts() == [] and other.poll() is None
