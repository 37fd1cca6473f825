"""`vilg launch --start` with real processes: prints their log, stops them, restarts them, and leaves no process."""

import os
import shutil
import signal
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

from tests.conftest import small_overrides
from tests.processes import ROOT, metrics, ranks_of, running, started, vilg
from vilg import checkpoint, config

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(240)]


@contextmanager
def launched(folder, name, *more, cwd=ROOT):
    """The launcher with a run of 20 steps on two ranks, slowed down by an evaluation after each step."""
    settings = config.resolve(config.Pretraining, None, small_overrides(folder))
    config.save(settings, folder / "small.yaml")
    command = [
        sys.executable,
        "-m",
        "vilg.cli",
        "launch",
        "-c",
        str(folder / "small.yaml"),
        "--start",
        f"run.name={name}",
        "cluster.devices_per_node=2",
        "cluster.backoff=0.1",
        "train.steps=20",
        "train.eval_every=1",
        "checkpoint.every_steps=4",
        *more,
    ]
    with started(command, cwd) as launcher:
        yield launcher
    deadline = time.time() + 30
    while running(f"run.name={name}") and time.time() < deadline:
        time.sleep(0.1)
    assert not running(f"run.name={name}"), "processes were left behind"


def wait_for(launcher, run, steps, name):
    """Wait until the run has recorded this number of steps. Returns its ranks."""
    while not ((run / "metrics.jsonl").exists() and len(metrics(run)) >= steps and len(ranks_of(name)) == 2):
        time.sleep(0.05)
        assert launcher.poll() is None, launcher.communicate()
    return ranks_of(name)


def losses(run):
    lines = metrics(run)
    assert [line["step"] for line in lines] == list(range(1, 21))
    return np.array([[line["loss"], line["loss_t2i"], line["loss_i2t"], line["grad_norm"]] for line in lines])


@pytest.fixture
def undisturbed(small, tmp_path):
    with launched(tmp_path, "undisturbed") as launcher:
        out, err = launcher.communicate(timeout=100)
    assert launcher.returncode == 0, out + err
    assert "[rank 0] " in out and "undisturbed: 20/20" in out
    return losses(tmp_path / "runs" / "undisturbed")


def test_a_killed_rank_is_named_and_the_restarted_run_gives_the_same_result(undisturbed, tmp_path):
    run = tmp_path / "runs" / "killed"
    with launched(tmp_path, "killed") as launcher:
        os.kill(wait_for(launcher, run, 6, "killed")[1], signal.SIGKILL)
        out, err = launcher.communicate(timeout=150)
    assert launcher.returncode == 0, out + err
    assert "was killed: there is no error in its log" in err
    assert "restarting in" in err and "resumed" in out
    assert (losses(run) == undisturbed).all()


def test_a_job_that_always_fails_is_given_up(small, tmp_path):
    """A missing file is bad input, which is not retried. A killed rank is retried, up to a limit, and so is the killed
    agent of a node, whose ranks end with it.
    """
    with launched(tmp_path, "hopeless", "cluster.max_restarts=1") as launcher:
        for victim in ("rank", "agent"):
            pids = wait_for(launcher, tmp_path / "runs" / "hopeless", 1, "hopeless")
            agents = running("run.name=hopeless", "vilg.distributed.launch.node")
            os.kill(pids[0] if victim == "rank" else agents[0], signal.SIGKILL)
            while set(pids) & set(ranks_of("hopeless")):
                time.sleep(0.05)
        out, err = launcher.communicate(timeout=100)
    assert launcher.returncode == 1 and "giving up after 1 restarts" in err, out + err

    with launched(tmp_path, "missing", "text.vocab=nowhere.txt") as launcher:
        out, err = launcher.communicate(timeout=100)
    assert launcher.returncode == 1 and "nowhere.txt" in err and "restarting in" not in err, out + err


def test_each_class_of_failure_is_named_and_the_job_restarted(small, tmp_path):
    """Errors of devices, NCCL and storage are no bad input, although Paddle raises OSError for them."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tests" / "fleet" / "failing_program.py", tmp_path / "tools" / "pretrain.py")
    one = ["cluster.devices_per_node=1", "cluster.backoff=0", "checkpoint.every_steps=1", "train.micro_batch=4"]
    with launched(tmp_path, "failing", *one, cwd=tmp_path) as launcher:
        out, err = launcher.communicate(timeout=200)
    assert launcher.returncode == 0, out + err
    classes = ["device", "communication", "out of memory", "storage", "storage", "defect"]
    for attempt, kind in enumerate(classes, 1):
        assert f"attempt {attempt}: {kind}, rank 0:\n" in err, err
    for error in ("OSError: (External) CUDA error(719)", "Stale file handle", "Fatal Python error: Bus error"):
        assert f"\n    {error}" in err.replace("OSError: [Errno 116] ", ""), err
    assert len(losses(tmp_path / "runs" / "failing")) == 20


def test_sigterm_to_the_launcher_saves_and_exits_with_0(small, tmp_path):
    run = tmp_path / "runs" / "ended"
    with launched(tmp_path, "ended", "checkpoint.every_steps=1000") as launcher:
        wait_for(launcher, run, 3, "ended")
        launcher.send_signal(signal.SIGTERM)
        out, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 0, out + err
    steps = len(metrics(run))
    assert 3 <= steps < 20
    assert [path.name for path in checkpoint.checkpoints_in(run / "checkpoints")] == [checkpoint.step_directory(steps)]


def test_sigterm_before_training_starts_ends_the_launcher_at_once(small, tmp_path):
    with launched(tmp_path, "early") as launcher:
        while not running("run.name=early", "--log_dir"):  # its nodes are starting
            time.sleep(0.01)
        launcher.send_signal(signal.SIGTERM)
        out, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 128 + signal.SIGTERM and "stopped; resume=auto" in err, out + err
    assert not (tmp_path / "runs" / "early" / "metrics.jsonl").exists()


def test_a_hanging_rank_is_reported_with_its_stack_and_restarted(undisturbed, tmp_path):
    run = tmp_path / "runs" / "hanging"
    # Gloo gives up after 30 seconds, and the other rank would then end with an error instead of a stack.
    with launched(tmp_path, "hanging", "cluster.stall_timeout=20") as launcher:
        os.kill(wait_for(launcher, run, 6, "hanging")[1], signal.SIGSTOP)
        out, err = launcher.communicate(timeout=150)
    assert launcher.returncode == 0, out + err
    assert "no step for" in err and "most recent call first" in out  # text of faulthandler
    assert (losses(run) == undisturbed).all()


def test_a_second_job_is_refused_and_killing_the_launcher_ends_all_processes(small, tmp_path):
    run = tmp_path / "runs" / "orphans"
    with launched(tmp_path, "orphans", "train.steps=1000") as launcher:
        wait_for(launcher, run, 2, "orphans")
        second = vilg("pretrain", "-c", str(tmp_path / "small.yaml"), "run.name=orphans", "resume=auto", cwd=tmp_path)
        assert second.returncode == 1 and f"vilg: {run}: another job uses this folder: process" in second.stderr
        steps = [line["step"] for line in metrics(run)]
        assert steps == list(range(1, len(steps) + 1)) and launcher.poll() is None
        launcher.kill()
    assert not (run / "lock").exists()  # each node stops its ranks, which end in order


def test_two_hosts_with_a_substitute_for_ssh(undisturbed, tmp_path):
    """Both hosts are this machine. The ranks of the second one are killed, and its name is in the log."""
    shell = tmp_path / "ssh"
    shell.write_text('#!/bin/bash\necho "$1" >> "$(dirname "$0")/reached"\nexec bash -c "$2"\n')
    shell.chmod(0o755)
    run = tmp_path / "runs" / "far"
    with launched(
        tmp_path, "far", "--hosts", "127.0.0.1,127.0.0.2", "--ssh", str(shell), "cluster.devices_per_node=1"
    ) as launcher:
        pids = wait_for(launcher, run, 6, "far")
        second = [pid for pid in pids if b"PADDLE_TRAINER_ID=1" in open(f"/proc/{pid}/environ", "rb").read()]
        os.kill(second[0], signal.SIGKILL)
        out, err = launcher.communicate(timeout=150)
    assert launcher.returncode == 0, out + err
    assert (
        sorted((tmp_path / "reached").read_text().split()) == ["127.0.0.1"] * 4 + ["127.0.0.2"] * 4
    )  # each attempt checks the nodes first
    assert "127.0.0.2 rank 1 was killed" in err and "[127.0.0.1 rank 0] " in out
    assert np.abs(losses(run) - undisturbed)[:, :3].max() < 1e-5
