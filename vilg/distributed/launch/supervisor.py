"""Runs a job on all of its nodes, and restarts it from its newest checkpoint when a rank has failed.

fleetrun does not restart failed workers, and the peers of a failed rank would wait for it.
"""

import logging
import queue
import secrets
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from vilg.distributed.folder_lock import LAUNCHED_JOB
from vilg.distributed.launch.commands import Job
from vilg.distributed.launch.console import Console
from vilg.distributed.launch.failure_class import FailureClass
from vilg.distributed.launch.host_process import HostProcess
from vilg.distributed.launch.hosts import Host
from vilg.distributed.launch.preflight import find_faults
from vilg.distributed.launch.restarts import Restarts
from vilg.distributed.launch.root_cause import RankFailure, describe, describe_node, root_cause
from vilg.distributed.stop_signals import stop_requested
from vilg.metrics_jsonl import last_step

log = logging.getLogger(__name__)

_LINES_KEPT = 200  # lines kept of each rank
_LINES_SHOWN = 20  # of a node that was lost
_STACKS = 5.0  # seconds for the ranks to write their stacks
_GRACE = 30.0  # seconds for a node to end all processes


class RemoteNode:
    """The agent (node.py) of one host."""

    def __init__(self, number: int, host: Host, command: list[str], ssh: list[str], events: queue.Queue):
        self.number, self.host, self.code = number, host, None
        self._agent = HostProcess(host, command, ssh)
        threading.Thread(target=self._listen, args=(events,), daemon=True).start()

    def send(self, word: str) -> None:
        """Send a command. If the agent has exited, its last event reports that."""
        self._agent.send(word)

    def end(self) -> None:
        """End the agent, which then ends everything on its node."""
        self._agent.end(_GRACE)

    def _listen(self, events: queue.Queue) -> None:
        for event in self._agent.messages():
            # Other lines come from ssh, or from a Python that could not start.
            events.put((self, event if isinstance(event, dict) else {"log": None, "line": event}))
        events.put((self, {"code": self._agent.wait() or 1}))


class Supervisor:
    """Starts the agents of all nodes, handles their events, and restarts the job."""

    def __init__(self, job: Job, hosts: list[Host], ssh: list[str]):
        self.job, self.hosts, self.ssh = job, hosts, ssh
        self._id = secrets.token_hex(8)  # tells this job from others, on its nodes and in the lock of the run
        self._stop_requested: Callable[[], bool] = lambda: False
        self._console = Console(job.folder / "log")

    def run(self) -> int:
        """Run the job. Returns 0 when it is complete, or when it was saved after a SIGTERM."""
        cluster = self.job.settings.cluster
        restarts = Restarts()
        with stop_requested() as self._stop_requested:
            for attempt in range(cluster.max_restarts + 1):
                end = self._attempt(attempt)
                if end.succeeded:
                    return 0
                if not self._stop_requested():
                    log.error("attempt %d: %s", attempt + 1, end.reason)
                    if reason := restarts.reason_to_give_up(
                        end.failure_class, last_step(self.job.folder / "metrics.jsonl")
                    ):
                        log.error("giving up: %s", reason)
                        return 1
                    if attempt < cluster.max_restarts:
                        self._wait_before_restart(min(2**attempt, 16) * cluster.backoff)
                if self._stop_requested():
                    log.info("stopped; resume=auto continues from the newest checkpoint")
                    return 128 + signal.SIGTERM
        log.error("giving up after %d restarts (cluster.max_restarts)", cluster.max_restarts)
        return 1

    def _attempt(self, number: int) -> "_AttemptResult":
        """Check the nodes, and run the job once, until it ends in any way."""
        if faults := find_faults(self.job, self.hosts, self.ssh, number, self._stop_requested):
            # Of a job that has run, a node may be starting again.
            permanent = FailureClass.USER if number == 0 else None
            return _AttemptResult("not started:\n" + "\n".join(f"    {fault}" for fault in faults), False, permanent)
        events: queue.Queue = queue.Queue()
        nodes = [
            RemoteNode(node, host, self._command(node, number), self.ssh, events)
            for node, host in enumerate(self.hosts)
        ]
        attempt_log = _AttemptLog(self.job.settings.cluster.devices_per_node, len(nodes) > 1, self._console)
        stop_was_sent, hanging = False, None
        try:
            while True:
                if self._stop_requested() and not stop_was_sent:
                    log.info("stopping: all ranks finish their step and save a checkpoint")
                    stop_was_sent = True
                    for node in nodes:
                        node.send("stop")
                if hanging and time.monotonic() > hanging[1]:
                    return _AttemptResult(f"no step for {hanging[0]} seconds; the log has the stacks of all ranks")
                try:
                    node, event = events.get(timeout=0.1)
                except queue.Empty:
                    continue
                if "stalled" in event and not hanging:
                    log.error("no step for %d seconds; the stacks of the ranks:", event["stalled"])
                    hanging = event["stalled"], time.monotonic() + _STACKS
                    for other in nodes:
                        other.send("stacks")
                elif "code" in event and node.code is None:
                    node.code = event["code"]
                    if node.code != 0:
                        if cause := attempt_log.find_cause(events):
                            return _AttemptResult(describe(cause), failure_class=cause.failure_class)
                        return _AttemptResult(attempt_log.last_messages(node))
                    if all(other.code == 0 for other in nodes):
                        return _AttemptResult("all ranks are done", succeeded=True)
                else:
                    attempt_log.record(node, event)
        finally:
            for node in nodes:
                node.end()

    def _command(self, node: int, attempt: int) -> list[str]:
        fleetrun = self.job.fleetrun_command(
            len(self.hosts), str(node), self.hosts[0].address or "", attempt, self.hosts[node].address
        )
        return [
            "env",
            *self.job.environment(),
            f"{LAUNCHED_JOB}={self._id}.{attempt}",
            sys.executable,
            "-m",
            "vilg.distributed.launch.node",
            f"{self.job.folder}/log/node-{node}",
            str(self.job.folder / "metrics.jsonl"),
            str(self.job.settings.cluster.stall_timeout),
            sys.executable,
            "-m",
            "vilg.cli",
            *fleetrun[1:],
        ]

    def _wait_before_restart(self, seconds: float) -> None:
        log.info("restarting in %.0f seconds from the newest valid checkpoint", seconds)
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stop_requested():
            time.sleep(0.05)


@dataclass(frozen=True)
class _AttemptResult:
    """How an attempt ended. failure_class: None if no rank failed, for example after a stall."""

    reason: str
    succeeded: bool = False
    failure_class: FailureClass | None = None


class _AttemptLog:
    """The output of the ranks in one attempt, and the ranks that have exited."""

    def __init__(self, devices: int, many: bool, console: Console):
        self._devices, self._many, self._console = devices, many, console
        self._fleetrun: dict[int, list[str]] = {}  # what fleetrun said last, of each node
        self._lines: dict[str, deque[str]] = {}
        self._exited: dict[str, tuple[float, bool]] = {}  # seconds, and whether its host was out of memory

    def record(self, node: RemoteNode, event: dict) -> None:
        if "exited" in event:
            out_of_memory = event.get("oom_kills", 0) > 0
            self._exited[self._rank_name(node, event["exited"])] = time.monotonic(), out_of_memory
        elif "fleetrun" in event:
            self._fleetrun[node.number] = event["fleetrun"]
        elif "log" in event:
            where = self._rank_name(node, event["log"])
            self._lines.setdefault(where, deque(maxlen=_LINES_KEPT)).append(event["line"])
            self._console.print(f"[{where}] {event['line']}")

    def find_cause(self, events: queue.Queue) -> RankFailure | None:
        """The failure that ended the attempt. Takes events that have already arrived into account."""
        while not events.empty():
            node, event = events.get()
            self.record(node, event)
        dead = [RankFailure(where, list(self._lines.get(where, [])), *how) for where, how in self._exited.items()]
        silent = [RankFailure(where, list(lines)) for where, lines in self._lines.items() if where not in self._exited]
        return root_cause(dead) or root_cause([failure for failure in silent if failure.error])

    def last_messages(self, node: RemoteNode) -> str:
        """Why this node ended although no rank has failed."""
        others = list(self._lines.get(str(node.host), []))
        return describe_node(str(node.host), self._fleetrun.get(node.number), others[-_LINES_SHOWN:])

    def _rank_name(self, node: RemoteNode, rank: int | None) -> str:
        if rank is None:
            return str(node.host)
        number = node.number * self._devices + rank
        return f"{node.host} rank {number}" if self._many else f"rank {number}"
