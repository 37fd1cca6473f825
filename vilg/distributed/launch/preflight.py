"""Checks every node before a job starts: reachable, the same programs and settings, shared folders, and a free port.

Without it, most of these faults appear as a job that waits, until cluster.stall_timeout.
"""

import json
import queue
import secrets
import shlex
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from vilg import runtime
from vilg.distributed.launch.commands import Job
from vilg.distributed.launch.hosts import Host
from vilg.distributed.launch.preflight_node import Request, digest, versions

LIMIT = 60.0  # seconds for each of the two reports of a node
_ENDING = 10.0  # seconds for a node to remove its files


def find_faults(
    job: Job, hosts: list[Host], ssh: list[str], attempt: int = 0, stopped: Callable[[], bool] = lambda: False
) -> list[str]:
    """One line for each fault of a node, with its name and what to do. Ends early if `stopped` becomes true.

    All nodes are checked at once. What the nodes have to share is checked only if each of them is in order.
    """
    nodes = [_Node(host, _line(job, request), ssh) for host, request in zip(hosts, _requests(job, hosts, attempt))]
    try:
        reports = _reports(nodes, stopped)
        faults = [
            fault for node, report in zip(nodes, reports) for fault in _first_faults(node, report, reports[0], job)
        ]
        if not faults and len(nodes) > 1 and not stopped():
            for node in nodes:
                node.send_line()
            faults = [fault for node, report in zip(nodes, _reports(nodes, stopped)) for fault in _faults(node, report)]
    finally:
        for node in nodes:
            node.close()
    return [] if stopped() else faults


def _requests(job: Job, hosts: list[Host], attempt: int) -> list[Request]:
    settings, token = job.settings, secrets.token_hex(8)
    folders = [str(job.folder)]
    if settings.checkpoint.folder and "://" not in settings.checkpoint.folder:
        folders.append(settings.checkpoint.directory(settings.run))
    master = (hosts[0].address or "", settings.cluster.port_of(attempt)) if len(hosts) > 1 else None
    return [Request(node, token, job.file, folders, host.address, master) for node, host in enumerate(hosts)]


def _line(job: Job, request: Request) -> str:
    """The shell line that a node runs. What comes before the report tells how far it came."""
    check = [sys.executable, "-m", "vilg.distributed.launch.preflight_node", json.dumps(asdict(request))]
    command = shlex.join(["env", *job.environment(), *check])
    return f"echo '{json.dumps({'reached': True})}' && cd {shlex.quote(str(Path.cwd()))} && exec {command}"


class _Node:
    """The check that runs on one host."""

    def __init__(self, host: Host, line: str, ssh: list[str]):
        self.host, self.reached, self.reported = host, False, False
        self.last_lines: deque[str] = deque(maxlen=1)  # that are no report
        self.reach = shlex.join(host.shell_command(ssh, "true"))
        self._reports: queue.Queue[dict | None] = queue.Queue()
        self._process = subprocess.Popen(
            host.shell_command(ssh, line),
            env=runtime.environment_before(),
            text=True,
            errors="replace",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        threading.Thread(target=self._listen, daemon=True).start()

    def report(self, until: float, stopped: Callable[[], bool]) -> dict | None:
        """The next report; None if there is none until `until` (time.monotonic)."""
        while not stopped():
            try:
                return self._reports.get(timeout=min(0.1, max(0.0, until - time.monotonic())))
            except queue.Empty:
                if time.monotonic() > until:
                    return None
        return None

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def send_line(self) -> None:
        with suppress(OSError):  # it has ended, which its missing report shows
            self._stdin.write("\n")
            self._stdin.flush()

    def close(self) -> None:
        with suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(_ENDING if self.reported else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _listen(self) -> None:
        for line in self._stdout:
            try:
                report = json.loads(line)
            except ValueError:
                report = None
            if not isinstance(report, dict):
                self.last_lines.extend([line.strip()] if line.strip() else [])
            elif "reached" in report:
                self.reached = True
            else:
                self.reported = True
                self._reports.put(report)
        self._process.wait()
        self._reports.put(None)


def _reports(nodes: list[_Node], stopped: Callable[[], bool]) -> list[dict | None]:
    until = time.monotonic() + LIMIT
    return [node.report(until, stopped) for node in nodes]


def _first_faults(node: _Node, report: dict | None, first: dict | None, job: Job) -> list[str]:
    """The faults of a node by itself, and where it differs from this machine and from the first node."""
    if report is None:
        return _faults(node, report)
    here, folder, faults = versions(), Path.cwd(), [*report["faults"]]
    found = report["versions"]
    if found["vilg"] != here["vilg"]:
        faults.append(f"vilg {found['vilg']} and not {here['vilg']} as here; every node needs the checkout of {folder}")
    if report["settings"] != digest(job.file):
        what = "cannot be read" if report["settings"] is None else "differs from the one here"
        faults.append(f"{job.file}: {what}; every node needs the checkout of {folder}")
    for program in ("Python", "Paddle"):
        wanted = (first or report)["versions"][program]
        if found[program] != wanted:
            faults.append(f"{program} {found[program]} and not {wanted} as on the first node; install the same version")
    return [f"{node.host}: {fault}" for fault in faults]


def _faults(node: _Node, report: dict | None) -> list[str]:
    """The faults in a report, or why there is none."""
    if report is not None:
        return [f"{node.host}: {fault}" for fault in report["faults"]]
    said = "; ".join(node.last_lines)
    if not node.reached:
        reason = (
            said if node.has_ended and said else f"no answer in {LIMIT:.0f} seconds{' (' + said + ')' if said else ''}"
        )
        return [f"{node.host}: not reachable: {reason}; `{node.reach}` has to work without a password"]
    if not node.has_ended:
        return [f"{node.host}: no report in {LIMIT:.0f} seconds; a file system or the network may hang"]
    return [
        f"{node.host}: {said or 'the check has failed'}; every node needs {Path.cwd()} and {sys.executable} as here"
    ]
