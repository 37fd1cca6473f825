"""The checks of all nodes before a job starts. A program that runs lines on this machine replaces ssh."""

import json
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import asdict

import pytest

from tests.distributed.launch.printed_jobs import BIG, job, stand_ins
from tests.processes import ROOT
from vilg.distributed.launch import preflight
from vilg.distributed.launch.hosts import Host
from vilg.distributed.launch.preflight import find_faults
from vilg.distributed.launch.preflight_node import Request, digest, versions

HOSTS = [Host("a", address="127.0.0.1"), Host("b", address="127.0.0.2"), Host("c", address="127.0.0.3")]


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Checks a job on HOSTS. ssh: lines of bash that replace it; $1 is the host, $2 the line to run there."""
    monkeypatch.chdir(ROOT)
    port = next(port for port in iter(free_port, None) if port < 65000)

    def check(ssh='exec bash -c "$2"', *overrides, hosts=HOSTS, attempt=0):
        stand_ins(tmp_path, ssh=ssh)
        launched = job(f"run.dir={tmp_path}/runs", "run.name=x", f"cluster.master_port={port}", *overrides)
        return find_faults(launched, hosts, [str(tmp_path / "ssh")], attempt)

    check.port = port
    return check


def only_on(host, does):
    """A stand-in for ssh that does something else on one host. $line is what it runs."""
    return f'line=$2; if [ "$1" = {host} ]; then {does}; fi; exec bash -c "$line"'


def test_nodes_in_order_have_no_faults_and_nothing_is_left(check, tmp_path):
    assert check() == []
    assert check(hosts=[Host("localhost")]) == []
    assert check('exec bash -c "$2"', f"checkpoint.folder={tmp_path}/kept") == []
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["ssh"]
    with socket.create_server(("", check.port)):
        pass  # and the port is free again


@pytest.mark.parametrize(
    "does, fault",
    [
        (
            "echo 'ssh: no route to host' >&2; exit 255",
            "b: not reachable: ssh: no route to host; `{ssh} b true` has to work",
        ),
        ("exit 255", "b: not reachable: no answer in 60 seconds; `{ssh} b true` has to work without a password"),
        ('line="cd /; exec true"', "b: not reachable: "),
        (
            "line=${line//cd */cd /no/such/checkout}",
            "b: bash: line 1: cd: /no/such/checkout: No such file or directory; every",
        ),
        (
            "line=${line//" + sys.executable.replace("/", "\\/") + "/\\/no\\/python}",
            "b: env: ‘/no/python’: No such file",
        ),
        ("line=${line/vilg.distributed/not_vilg}", "not_vilg; every node needs"),
    ],
)
def test_a_node_without_a_report_is_named_with_its_last_line(check, tmp_path, does, fault):
    (found,) = check(only_on("b", does))
    if fault.startswith("not_vilg") or "‘" in fault:  # the wording of env and Python differs between versions
        assert found.startswith("b: ") and fault.partition("; every")[0].split(": ")[-1] in found
        assert f"every node needs {ROOT} and {sys.executable} as here" in found
    else:
        assert found.startswith(fault.format(ssh=tmp_path / "ssh"))


def test_nodes_that_do_not_answer_are_reported_after_a_time_limit(check, monkeypatch, tmp_path):
    """All at once: two such nodes take no longer than one."""
    monkeypatch.setattr(preflight, "LIMIT", 3.0)
    begin = time.monotonic()
    faults = check('[ "$1" = a ] && exec bash -c "$2"; [ "$1" = c ] && echo \'{"reached": true}\'; exec sleep 30')
    assert time.monotonic() - begin < 8
    assert [fault.partition(" in 3 seconds")[0] for fault in faults] == [
        "b: not reachable: no answer",
        "c: no report",
    ]


def test_a_taken_port_is_reported_at_once(check):
    with socket.create_server(("", check.port + 1)):
        assert check() == []
        (fault,) = check(attempt=1)
    assert fault.startswith(f"a: port {check.port + 1}: address already in use; end the process that uses it, or set")


def test_other_programs_on_a_node_are_reported(check, tmp_path):
    """Of Paddle and Python, the first node has the right version."""
    report = {"versions": versions() | {"vilg": "0.0.1 (other)", "Paddle": "2.6"}, "settings": None, "faults": []}
    faults = check(only_on("b", f"echo '{json.dumps({'reached': True})}'; echo '{json.dumps(report)}'; exec cat"))
    assert [fault.partition(";")[0] for fault in faults] == [
        f"b: vilg 0.0.1 (other) and not {versions()['vilg']} as here",
        f"b: {BIG}: cannot be read",
        f"b: Paddle 2.6 and not {versions()['Paddle']} as on the first node",
    ]
    assert all("\n" not in fault and ";" in fault for fault in faults)


def test_a_settings_file_that_differs_is_reported(tmp_path):
    (tmp_path / "a.yaml").write_text("x: 1")
    (tmp_path / "b.yaml").write_text("x: 2")
    assert digest(str(tmp_path / "a.yaml")) != digest(str(tmp_path / "b.yaml")) and digest(str(tmp_path / "c")) is None


@pytest.mark.parametrize("which", ["runs", "kept"])
def test_a_folder_that_is_not_shared_is_reported(check, tmp_path, which):
    """The second node has another folder under the same name."""
    folder = f"{tmp_path}/{which}".replace("/", "\\/")
    overrides = [f"checkpoint.folder={tmp_path}/kept"]
    (fault,) = check(only_on("b", f"line=${{line//{folder}/{folder}-of-b}}"), *overrides)
    assert fault.startswith(
        f"b: {tmp_path}/{which}-of-b/x: a file of the first node is not there; the folder has to be"
    )
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["ssh"]


def test_a_folder_that_cannot_be_written_is_reported(check, tmp_path):
    (tmp_path / "runs").write_text("a file")
    faults = check(hosts=[Host("localhost")])
    assert faults == [
        f"localhost: {tmp_path}/runs/x: not a directory; choose another folder, or let every node write there"
    ]


@pytest.mark.parametrize("address", ["127.0.0.1", "no-such-host.invalid"])
def test_a_first_node_that_others_do_not_reach_is_reported(tmp_path, address):
    """The second node alone, as if a firewall or another meaning of the name were between the two."""
    port = free_port()
    request = Request(1, "token", BIG, [], "127.0.0.2", (address, port))
    _, found = reports_of(request, tmp_path)
    (fault,) = found["faults"]
    meaning = "127.0.0.1" if address == "127.0.0.1" else "unknown"
    assert f"cannot reach the first node at {address}:{port} ({address} is {meaning} here): " in fault
    assert "open the ports between the nodes, or give the first host the 'address='" in fault


def test_another_program_at_the_port_of_the_master_is_reported(tmp_path):
    with socket.create_server(("", 0)) as server:
        request = Request(1, "token", BIG, [], "127.0.0.2", ("127.0.0.1", server.getsockname()[1]))
        process = started_node(request, tmp_path)
        process.stdin.write("\n")
        process.stdin.flush()
        server.accept()[0].close()
        out, _ = process.communicate(timeout=30)
    assert "another program answers" in json.loads(out.splitlines()[1])["faults"][0]


def test_gloo_needs_an_interface_where_the_own_name_is_a_loopback(tmp_path):
    """As on Debian. Only with Paddle for CPUs, and not if the user has chosen the interface."""
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\nbefore = socket.gethostbyname\n"
        "socket.gethostname = lambda: 'node7'\n"
        "socket.gethostbyname = lambda name: '127.0.1.1' if name == 'node7' else before(name)\n"
    )
    request = Request(0, "token", BIG, [], "10.0.0.7", ("10.0.0.7", free_port()))
    report, _ = reports_of(request, tmp_path)
    (fault,) = report["faults"]
    assert (
        fault.startswith("its own name node7 is 127.0.1.1 here")
        and "GLOO_SOCKET_IFNAME to its network interface (" in fault
    )
    assert not reports_of(request, tmp_path, GLOO_SOCKET_IFNAME="eth0")[0]["faults"]
    local = Request(0, "token", BIG, [], "127.0.0.1", ("127.0.0.1", free_port()))
    assert not reports_of(local, tmp_path)[0]["faults"]


def started_node(request, folder, **variables):
    line = shlex.join([sys.executable, "-m", "vilg.distributed.launch.preflight_node", json.dumps(asdict(request))])
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{folder}:{ROOT}", **variables}
    return subprocess.Popen(
        ["bash", "-c", f"exec {line}"],
        cwd=ROOT,
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def reports_of(request, folder, **variables):
    """Both reports of a node."""
    out, _ = started_node(request, folder, **variables).communicate("\n", timeout=30)
    return list(map(json.loads, out.splitlines()))
