"""What the launcher starts on each node: runs fleetrun, tells what happens, and leaves nothing behind.

    python -m vilg.distributed.launch.node LOG_FOLDER PROGRESS_FILE STALL_SECONDS COMMAND ..

On stdout one JSON object a line: {"log": rank, "line": ..}, {"exited": rank}, {"stalled": seconds}, {"code": ..} at the
end. On stdin: `stop` sends SIGTERM to the ranks, which save and end; `stacks` makes every rank write where it stands;
the end of stdin, which also comes when the connection or the launcher is gone, ends everything.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from vilg import runtime

_PAUSE = 0.05  # seconds between two looks
_GRACE = 10.0  # seconds that fleetrun has to end its ranks


class NodeAgent:
    """fleetrun and the ranks that it has started on this node."""

    def __init__(self, logs: Path, command: list[str]):
        self.logs = logs
        # fleetrun writes behind what earlier attempts have left.
        self._read = {file: file.stat().st_size for file in logs.glob("workerlog.*")}
        self.fleetrun = subprocess.Popen(
            command,
            env=runtime.environment_before(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._ranks: dict[int, int] = {}  # process: rank on this node
        self._exited: set[int] = set()

    def ranks(self) -> dict[int, int]:
        """{process: rank on this node} of those that run."""
        running = {}
        for process in _children(self.fleetrun.pid):
            if process not in self._ranks:
                rank = _variable(process, "PADDLE_LOCAL_RANK")
                if rank is None:
                    continue
                self._ranks[process] = int(rank)
            running[process] = self._ranks[process]
        return running

    def newly_exited(self) -> list[int]:
        """Ranks on this node that have ended since the last call, in the command in which that was seen."""
        running = self.ranks()
        gone = [process for process in self._ranks if process not in self._exited and process not in running]
        self._exited.update(gone)
        return [self._ranks[process] for process in gone]

    def new_lines(self) -> list[tuple[int, str]]:
        """(rank on this node, line) that the ranks have written since the last call."""
        lines = []
        for file in sorted(self.logs.glob("workerlog.*")):
            with open(file, "rb") as opened:
                opened.seek(self._read.get(file, 0))
                data = opened.read()
            data = data[: data.rfind(b"\n") + 1]
            self._read[file] = self._read.get(file, 0) + len(data)
            lines += [(int(file.suffix[1:]), line) for line in data.decode(errors="replace").splitlines()]
        return lines

    def signal(self, number: int) -> None:
        for process in self.ranks():
            try:
                os.kill(process, number)
            except ProcessLookupError:
                pass

    def end(self) -> None:
        """Whatever still runs is gone behind this."""
        ranks = list(self._ranks)
        if self.fleetrun.poll() is None:
            self.fleetrun.terminate()
            try:
                self.fleetrun.wait(_GRACE)
            except subprocess.TimeoutExpired:
                self.fleetrun.kill()
        for process in ranks:
            if _variable(process, "PADDLE_LOCAL_RANK") is not None:
                os.kill(process, signal.SIGKILL)


def main(logs: Path, progress: Path, stall_seconds: float, command: list[str]) -> int:
    # The launcher decides when this ends, and the terminal's signals are for it alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    node = NodeAgent(logs, command)
    commands: list[str] = []
    threading.Thread(target=_read_commands, args=(commands,), daemon=True).start()
    moved, stalled = time.monotonic(), False
    size = _size(progress)
    try:
        while (code := node.fleetrun.poll()) is None and "end" not in commands:
            while commands and commands[0] != "end":
                command = commands.pop(0)
                if command == "stop" and not node.ranks():
                    commands.append("end")  # nothing has begun that could be saved
                else:
                    node.signal({"stop": signal.SIGTERM, "stacks": signal.SIGUSR1}[command])
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
    emit(code=code)
    return 0


def emit(**event) -> None:
    print(json.dumps(event, ensure_ascii=False), flush=True)


def _report_output(node: NodeAgent) -> None:
    for rank in node.newly_exited():
        emit(exited=rank)
    for rank, line in node.new_lines():
        emit(log=rank, line=line)


def _read_commands(commands: list[str]) -> None:
    for line in sys.stdin:
        commands.append(line.strip())
    commands.append("end")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _children(parent: int) -> list[int]:
    """Those that run; what has ended stays in the list until the parent looks, and fleetrun looks every two seconds."""
    try:
        children = [int(one) for one in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except OSError:
        return []
    return [one for one in children if _state(one) not in "ZX"]


def _state(process: int) -> str:
    """One letter, as in proc(5); X where there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _variable(process: int, name: str) -> str | None:
    """What a variable was when the process began; None if there is no such process or variable."""
    try:
        for entry in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
            if entry.startswith(name.encode() + b"="):
                return entry.partition(b"=")[2].decode()
    except OSError:
        pass
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]))
