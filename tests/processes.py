"""Running vilg in separate processes with a time limit. No process is left."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(command: list[str], cwd: Path, seconds: int = 100) -> subprocess.CompletedProcess:
    """Run `command`. All its processes have ended when this returns, also after a time-out."""
    with started(command, cwd) as process:
        out, err = process.communicate(timeout=seconds)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


class Program(subprocess.Popen):
    """A process whose errors go to a file: with a pipe that nobody reads, it would stop once the pipe is full."""

    def __init__(self, command: list[str], **options):
        self._errors = tempfile.TemporaryFile("a+", encoding="utf-8", errors="replace")
        super().__init__(command, text=True, stdout=subprocess.PIPE, stderr=self._errors, **options)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed to stdout, and to stderr. Raises TimeoutExpired."""
        out, _ = super().communicate(timeout=timeout)
        with self._errors:
            self._errors.seek(0)
            return out, self._errors.read()


@contextmanager
def started(command: list[str], cwd: Path) -> Iterator[Program]:
    """`command` runs during the block. All its processes have ended after it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PADDLE_", "FLAGS_"))}
    environment |= {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("OMP_NUM_THREADS", None)
    process = Program(command, cwd=cwd, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        _end(process)


def running(*words: str) -> list[int]:
    """The processes whose command line contains all of the words."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        if set(words) <= set(command):
            found.append(int(folder.name))
    return sorted(found)


def ranks_of(run_name: str) -> list[int]:
    """The training processes of the run of this name, without the launchers."""
    word = f"run.name={run_name}"
    starters = {*running(word, "--log_dir"), *running(word, "launch")}
    return [process for process in running(word) if process not in starters]


def _end(process: subprocess.Popen) -> None:
    """fleetrun starts its workers in separate sessions, and ends them when it receives SIGTERM."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()


def vilg(*arguments: str, cwd: Path, seconds: int = 100) -> subprocess.CompletedProcess:
    """Run `vilg arguments` in one process."""
    return run([sys.executable, "-m", "vilg.cli", *arguments], cwd, seconds)


def fleetrun(processes: int, tool: str, *arguments: str, cwd: Path, seconds: int = 100) -> subprocess.CompletedProcess:
    """Run `fleetrun tools/TOOL.py arguments` with all its logs in the output."""
    done = run(fleetrun_command(processes, tool, *arguments, cwd=cwd), cwd, seconds)
    for log in sorted((cwd / "log").glob("workerlog.*")):
        done.stderr += f"--- {log.name}\n{log.read_text(errors='replace')}"
        log.unlink()
    return done


def fleetrun_command(processes: int, tool: str, *arguments: str, cwd: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "paddle.distributed.launch",
        "--nproc_per_node",
        str(processes),
        "--log_dir",
        str(cwd / "log"),
        str(ROOT / "tools" / f"{tool}.py"),
        *arguments,
    ]


def metrics(run_folder: Path) -> list[dict]:
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
