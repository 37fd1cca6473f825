"""Checks every node before a job starts: reachable, the same programs and settings, shared folders, and a free port.

Without it, most of these faults appear as a job that waits, until cluster.stall_timeout.
"""

import json
import queue
import secrets
import shlex
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from vilg.distributed.launch.commands import Job
from vilg.distributed.launch.host_process import HostProcess
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
    nodes = [_Node(host, _command(job, request), ssh) for host, request in zip(hosts, _requests(job, hosts, attempt))]
    try:
        reports = _reports(nodes, stopped)
        faults = [
            fault for node, report in zip(nodes, reports) for fault in _first_faults(node, report, reports[0], job)
        ]
        if not faults and len(nodes) > 1 and not stopped():
            for node in nodes:
                node.request_second_report()
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


def _command(job: Job, request: Request) -> list[str]:
    check = [sys.executable, "-m", "vilg.distributed.launch.preflight_node", json.dumps(asdict(request))]
    return ["env", *job.environment(), *check]


class _Node:
    """The check that runs on one host."""

    def __init__(self, host: Host, command: list[str], ssh: list[str]):
        self.host, self.reached, self.reported = host, False, False
        self.last_line = ""  # that is no report
        self.reach = shlex.join(host.shell_command(ssh, "true"))
        self._reports: queue.Queue[dict | None] = queue.Queue()
        # What comes before the report tells how far the check came.
        self._process = HostProcess(host, command, ssh, first=["echo", json.dumps({"reached": True})])
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
        return self._process.has_ended

    def request_second_report(self) -> None:
        """If the node has ended, its missing report shows that."""
        self._process.send("")

    def close(self) -> None:
        self._process.end(_ENDING if self.reported else 0)

    def _listen(self) -> None:
        for report in self._process.messages():
            if isinstance(report, str):
                self.last_line = report.strip() or self.last_line
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
    said = node.last_line
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
