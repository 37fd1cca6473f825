"""The agent that the launcher starts on each node. It runs fleetrun, reports events and cleans up.

    python -m vilg.distributed.launch.node LOG_FOLDER PROGRESS_FILE STALL_SECONDS COMMAND ..

Events are JSON objects on stdout, one a line: {"log": rank, "line": ..}, {"exited": rank, "oom_kills": processes that
the kernel has ended on this host for lack of memory}, {"stalled": seconds}, after a failure {"fleetrun": the last lines
that fleetrun itself printed}, and finally {"code": exit code}. Commands are read from stdin: `stop` sends SIGTERM to
the ranks, which save and end; `stacks` makes every rank write its stack to its log. The end of stdin, also caused by a
lost connection or launcher, ends all processes.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from vilg import runtime
from vilg.distributed.launch.previous_attempts import end_previous_attempts
from vilg.distributed.processes import die_with_parent, start_time, variable
from vilg.distributed.stop_signals import STOPPED_EXIT_CODE

_PAUSE = 0.05  # seconds between two polls
_GRACE = 10.0  # seconds for fleetrun to end its ranks
_MESSAGES, _MESSAGE_LENGTH = 20, 400  # lines of fleetrun, and their characters; one contains the whole environment


class NodeAgent:
    """fleetrun and its ranks on this node."""

    def __init__(self, logs: Path, command: list[str]):
        self.logs = logs
        # fleetrun appends to the logs of earlier attempts.
        self._read = {file: file.stat().st_size for file in logs.glob("workerlog.*")}
        logs.mkdir(parents=True, exist_ok=True)
        self._messages = logs / "fleetrun.log"
        with open(self._messages, "ab") as messages:
            self._messages_from = messages.tell()
            self.fleetrun = subprocess.Popen(
                command,
                env=runtime.environment_before(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # repeats the log of a rank
                stderr=messages,
                preexec_fn=partial(die_with_parent, os.getpid()),
            )
        self._oom_kills = _oom_kills()
        self._ranks: dict[int, int] = {}  # process: rank on this node
        self._exited: set[int] = set()

    def ranks(self) -> dict[int, int]:
        """{process id: rank on this node} of the running ranks."""
        running = {}
        for process in _children(self.fleetrun.pid):
            if process not in self._ranks:
                rank = variable(process, "PADDLE_LOCAL_RANK")
                if rank is None:
                    continue
                self._ranks[process] = int(rank)
            running[process] = self._ranks[process]
        return running

    def newly_exited(self) -> list[int]:
        """Ranks on this node that have exited since the last call, in the order in which that was noticed."""
        running = self.ranks()
        exited = [process for process in self._ranks if process not in self._exited and process not in running]
        self._exited.update(exited)
        return [self._ranks[process] for process in exited]

    def oom_kills(self) -> int:
        """How many processes the kernel has ended on this host for lack of memory since fleetrun was started."""
        return _oom_kills() - self._oom_kills

    def new_lines(self) -> list[tuple[int, str]]:
        """(rank on this node, line) of the log lines written since the last call."""
        lines = []
        for file in sorted(self.logs.glob("workerlog.*")):
            with open(file, "rb") as opened:
                opened.seek(self._read.get(file, 0))
                data = opened.read()
            data = data[: data.rfind(b"\n") + 1]
            self._read[file] = self._read.get(file, 0) + len(data)
            lines += [(int(file.suffix[1:]), line) for line in data.decode(errors="replace").splitlines()]
        return lines

    def last_messages(self) -> list[str]:
        """The last lines that fleetrun itself has printed."""
        with open(self._messages, "rb") as messages:
            messages.seek(self._messages_from)
            lines = messages.read().decode(errors="replace").splitlines()
        return [line[:_MESSAGE_LENGTH] for line in lines if line.strip()][-_MESSAGES:]

    def signal(self, number: int) -> None:
        for process in self.ranks():
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def end(self) -> None:
        """End fleetrun and all of its ranks."""
        ranks = list(self._ranks)
        if self.fleetrun.poll() is None:
            self.fleetrun.terminate()
            try:
                self.fleetrun.wait(_GRACE)
            except subprocess.TimeoutExpired:
                self.fleetrun.kill()
        for process in ranks:
            if variable(process, "PADDLE_LOCAL_RANK") is not None:
                os.kill(process, signal.SIGKILL)


def main(logs: Path, progress: Path, stall_seconds: float, command: list[str]) -> int:
    # Only the launcher reacts to signals of the terminal; it tells this process what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if remaining := end_previous_attempts():
        print(f"processes of an earlier attempt cannot be ended: {', '.join(map(str, remaining))}", flush=True)
        emit(code=1)
        return 1
    node = NodeAgent(logs, command)
    orders: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: orders.append("stop"))  # from a scheduler, or at a shutdown of the node
    threading.Thread(target=_read_commands, args=(orders,), daemon=True).start()
    moved, stalled = time.monotonic(), False
    size = _size(progress)
    try:
        while (code := node.fleetrun.poll()) is None and "end" not in orders:
            while orders and orders[0] != "end":
                order = orders.pop(0)
                if order == "stop" and not node.ranks():
                    orders.append("end")  # no rank runs yet, so there is nothing to save
                else:
                    node.signal({"stop": signal.SIGTERM, "stacks": signal.SIGUSR1}[order])
            _report_output(node)
            if _size(progress) != size:
                size, moved = _size(progress), time.monotonic()
            if not stalled and time.monotonic() - moved > stall_seconds:
                stalled = True
                emit(stalled=round(time.monotonic() - moved))
            time.sleep(_PAUSE)
    finally:
        node.end()
    _report_output(node)
    if code == STOPPED_EXIT_CODE:
        code = 0  # the ranks have saved after the command to stop
    if code:
        emit(fleetrun=node.last_messages())
    emit(code=code)
    return 0


def emit(**event) -> None:
    print(json.dumps(event, ensure_ascii=False), flush=True)


def _report_output(node: NodeAgent) -> None:
    for rank in node.newly_exited():
        emit(exited=rank, oom_kills=node.oom_kills())
    for rank, line in node.new_lines():
        emit(log=rank, line=line)


def _read_commands(commands: list[str]) -> None:
    for line in sys.stdin:
        commands.append(line.strip())  # noqa: PERF401  one at a time, as they arrive
    commands.append("end")


def _oom_kills(counters: Path = Path("/proc/vmstat")) -> int:
    """How many processes the kernel has ended for lack of memory since the start of the host, of a container too; 0 if
    it does not say.
    """
    try:
        lines = counters.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _children(parent: int) -> list[int]:
    """Running children of a process. Exited ones stay listed until the parent reaps them, which fleetrun does every two
    seconds.
    """
    try:
        children = [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except OSError:
        return []
    return [child for child in children if start_time(child) is not None]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]))
