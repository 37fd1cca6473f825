"""`vilg watch` on runs in every state, in wide and narrow terminals."""

import io
import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest

from tests.processes import ROOT
from vilg.cli import main
from vilg.distributed.folder_lock import FolderLock
from vilg.monitoring.run_folder import RunFolder
from vilg.training.entry_points import pretrain

pytest.importorskip("uniplot", reason="uniplot is not installed: pip install 'vilg[watch]'")

HEADINGS = ["where the time goes", "last steps", "checkpoints"]


def shown(capsys, *arguments) -> str:
    assert main(["watch", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def files(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_a_finished_run(small, capsys, monkeypatch):
    small.train.eval_every, small.train.peak_tflops = 3, 0.5
    pretrain(small)
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", "120")
    before = files(small.run.folder)
    out = shown(capsys, small.run.folder)  # no terminal: once
    assert files(small.run.folder) == before
    assert "finished" in out and "step 6 of 6 (100%)" in out and "epoch 2.40" in out and "MFU" in out
    assert [line for line in out.splitlines() if line in HEADINGS] == HEADINGS
    assert all(f" {name} " in out for name in ("loss", "heldout_nll_t2i", "grad_norm", "tokens_per_second"))
    assert "waiting for data" in out and "evaluation" in out
    assert [line.split()[0] for line in out.splitlines() if line.rstrip().endswith("complete")] == ["3", "6"]
    assert max(map(len, out.splitlines())) <= 120 and "\x1b" not in out


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_lines_fit_into_the_terminal(small, capsys, monkeypatch, columns):
    pretrain(small)
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", str(columns))
    out = shown(capsys, small.run.folder, "--once")
    assert max(map(len, out.splitlines())) <= columns
    assert "┌" in out and "loss" in out


@pytest.mark.parametrize("rows, columns", [(24, 80), (40, 100), (60, 160)])
def test_everything_fits_into_the_screen(small, rows, columns):
    from rich.console import Console

    from vilg.monitoring.frame import frame

    small.train.eval_every = 3
    pretrain(small)
    (small.run.folder / "log").mkdir()
    (small.run.folder / "log" / "workerlog.0").write_text("one\ntwo\nthree\nfour\n")
    run, console = RunFolder(small.run.folder), Console(file=io.StringIO(), width=columns)
    run.update()
    console.print(frame(run, time.time(), console, [], rows))
    out = console.file.getvalue()
    assert rows - 12 < len(out.splitlines()) <= rows
    assert all(heading in out for heading in HEADINGS) and "complete" in out and "loss" in out


def test_chosen_curves(small, capsys):
    pretrain(small)
    capsys.readouterr()
    out = shown(capsys, small.run.folder, "--once", "--curve", "lr", "--curve", "nothing")
    assert " lr 0.0" in out and "nothing: no value yet" in out and "tokens_per_second " not in out


def test_a_run_that_crashed_or_has_just_started(tmp_path, capsys):
    run = tmp_path / "run"
    (run / "log" / "node-0").mkdir(parents=True)
    (run / "log" / "node-0" / "workerlog.0").write_text("loading\rstep 1\r\nTraceback\n\x1b[31mOSError: \x07lost\n")
    out = shown(capsys, run, "--once")
    assert "no job uses this folder" in out and "no checkpoint" in out
    assert "end of log/node-0/workerlog.0" in out and "OSError: lost" in out and "\x07" not in out

    (run / "settings.yaml").write_text("train: {steps: 50}")
    (run / "metrics.jsonl").write_text('{"step": 1, "timestamp": 1000.0, "loss": Infinity}\n{"step": 2, "tim')
    out = shown(capsys, run, "--once")
    assert "step 1 of 50 (2%)" in out and "ended before its last step" in out and "loss: no value yet" in out

    (run / "settings.yaml").write_text("")
    assert "step 1\n" in shown(capsys, run, "--once")


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    for folder, message in ((tmp_path / "none", "no such folder"), (tmp_path, "not the folder of a run")):
        assert main(["watch", str(folder)]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"vilg: {folder}: {message}") and error.count("\n") == 1


def test_without_the_libraries_the_error_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "vilg.monitoring.frame", raising=False)
    monkeypatch.delitem(sys.modules, "vilg.monitoring.curves", raising=False)
    monkeypatch.setitem(sys.modules, "uniplot", None)
    assert main(["watch", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "vilg: vilg watch: uniplot is not installed; pip install 'vilg[watch]'\n"


def test_a_terminal_shows_new_steps_until_it_is_interrupted(tmp_path):
    """In a terminal of 30 x 90. Ctrl-C leaves with code 0."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "settings.yaml").write_text("train: {steps: 50}")
    lock = FolderLock(run)
    lock.acquire()

    def write(step):
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "timestamp": time.time(), "loss": 1 / step, "seconds": 1.0}) + "\n")

    write(1)
    controller, terminal = pty.openpty()
    environment = os.environ | {
        "COLUMNS": "90",
        "LINES": "30",
        "TERM": "xterm",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "vilg.cli", "watch", str(run), "--every", "0.1"],
        cwd=ROOT,
        env=environment,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    try:
        text = _read_until(controller, "step 1 of 50")
        for step in range(2, 8):
            write(step)
        text += _read_until(controller, "step 7 of 50")
        process.send_signal(2)
        text += _read_until(controller, None)
        assert process.wait(20) == 0
        assert lock.beat()  # watching takes nothing from the job
    finally:
        process.kill()
        process.wait()
        os.close(controller)
    assert "Traceback" not in text and "running" in text


def _read_until(controller: int, expected: str | None) -> str:
    """The output up to `expected`, or to its end."""
    text, until = "", time.monotonic() + 60
    while time.monotonic() < until and (expected is None or expected not in text):
        if select.select([controller], [], [], 1)[0]:
            try:
                data = os.read(controller, 65536)
            except OSError:  # the process has ended
                break
            if not data:
                break
            text += data.decode("utf-8", "replace")
    assert expected is None or expected in text, text[-3000:]
    return text
