"""Starting vilg in processes of its own, with a time limit, and leaving none behind."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(command: list[str], cwd: Path, seconds: int = 100) -> subprocess.CompletedProcess:
    """Run `command`; whatever it started is gone when this returns, also after a time-out."""
    with started(command, cwd) as process:
        out, err = process.communicate(timeout=seconds)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@contextmanager
def started(command: list[str], cwd: Path) -> Iterator[subprocess.Popen]:
    """`command` running beside the block; whatever it started is gone behind it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PADDLE_", "FLAGS_"))}
    environment |= {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("OMP_NUM_THREADS", None)
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        _end(process)


def running(*words: str) -> list[int]:
    """The processes whose command line has all of the words."""
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
    """The processes that train the run of this name, without those that started them."""
    word = f"run.name={run_name}"
    starters = {*running(word, "--log_dir"), *running(word, "launch")}
    return [process for process in running(word) if process not in starters]


def _end(process: subprocess.Popen) -> None:
    """fleetrun puts its workers into sessions of their own and ends them when it gets a SIGTERM itself."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()


def vilg(*arguments: str, cwd: Path, seconds: int = 100) -> subprocess.CompletedProcess:
    """`vilg arguments` in one process."""
    return run([sys.executable, "-m", "vilg.cli", *arguments], cwd, seconds)


def fleetrun(processes: int, tool: str, *arguments: str, cwd: Path, seconds: int = 100) -> subprocess.CompletedProcess:
    """`fleetrun tools/TOOL.py arguments` with all its logs in the output."""
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
