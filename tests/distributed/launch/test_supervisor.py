"""The launcher with stand-ins for the agents of its nodes: what it prints, and why it says that a job has failed."""

import json
import logging
import os
import shlex
import sys

import pytest

from tests.distributed.launch.printed_jobs import job
from tests.processes import ROOT
from vilg.distributed.launch import supervisor
from vilg.distributed.launch.host_process import HostProcess
from vilg.distributed.launch.hosts import Host
from vilg.distributed.launch.supervisor import Supervisor

OVERRIDES = ("cluster.max_restarts=0", "run.name=launched")


@pytest.fixture
def end_of(tmp_path, monkeypatch, caplog):
    """Runs a job whose nodes print these events. Returns the exit code and what the launcher logged."""
    monkeypatch.chdir(ROOT)
    caplog.set_level(logging.INFO)

    def end_of(*nodes, then=0):
        def command(_, node, attempt):
            printed = "\n".join(event if isinstance(event, str) else json.dumps(event) for event in nodes[node])
            return ["bash", "-c", f"echo {shlex.quote(printed)}; exit {then}"]

        monkeypatch.setattr(Supervisor, "_command", command)
        monkeypatch.setattr(supervisor, "find_faults", lambda *_: [])
        hosts = [Host(f"h{number}", address=f"10.0.0.{number}") for number in range(len(nodes))]
        launched = job(*OVERRIDES, f"run.dir={tmp_path}")
        return Supervisor(launched, hosts, ["bash", "-c", 'exec bash -c "$1"']).run(), caplog.text

    return end_of


def test_what_fleetrun_said_is_shown_if_no_rank_failed(end_of):
    code, said = end_of([{"log": 0, "line": "step 1"}, {"fleetrun": ["LAUNCH ERROR no port"]}, {"code": 3}])
    assert (
        code == 1 and "h0: fleetrun failed before any of its ranks reported an error:\n    LAUNCH ERROR no port" in said
    )


def test_what_ssh_said_is_shown_if_a_node_was_lost(end_of):
    code, said = end_of(["ssh: connect to host h0 port 22: No route to host"], then=255)
    assert code == 1 and "h0: the connection to it ended before any of its ranks reported an error:" in said
    assert "    ssh: connect to host h0 port 22: No route to host" in said


def test_the_error_of_a_rank_comes_before_that_of_fleetrun(end_of):
    failed = [{"log": 0, "line": "ValueError: bad"}, {"exited": 0}, {"fleetrun": ["Container failed"]}, {"code": 1}]
    code, said = end_of([{"log": 0, "line": "Traceback (most recent call last)"}, *failed])
    assert code == 1 and "ValueError: bad" in said and "Container failed" not in said


def test_a_job_goes_on_after_its_output_was_closed(end_of, monkeypatch, tmp_path):
    """As `vilg launch .. | head` closes it."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        code, said = end_of([{"log": 0, "line": f"step {step}"} for step in range(9)] + [{"code": 0}])
    assert code == 0 and said.count("standard output: Broken pipe; the job goes on") == 1
    assert f"logs are in {tmp_path}/launched/log" in said


def test_the_agent_keeps_what_fleetrun_prints(tmp_path):
    """Of this attempt, and at most its last lines; all of it is in the log folder."""
    logs = tmp_path / "log" / "node-0"
    for attempt in ("first", "second"):
        program = f"for i in {{1..30}}; do echo {attempt} $i >&2; done; exit 3"
        agent = [sys.executable, "-m", "vilg.distributed.launch.node", str(logs), str(tmp_path / "metrics.jsonl"), "60"]
        # The end of its input would end the agent, perhaps before it has seen the program end.
        process = HostProcess(Host("localhost"), [*agent, "bash", "-c", program], ssh=[])
        said, code = process.messages()
        process.end(10)
        assert said == {"fleetrun": [f"{attempt} {number}" for number in range(11, 31)]} and code == {"code": 3}
    assert len((logs / "fleetrun.log").read_text().splitlines()) == 60
