"""Two nodes on two hosts: network namespaces connected by a veth pair, shards inside and replicas across hosts.

It is skipped where namespaces are not permitted. test_launcher.py starts two nodes on one host.
"""

import subprocess
import sys
import uuid

import numpy as np
import pytest

from tests.conftest import small_overrides
from tests.processes import ROOT, metrics, running, started, vilg
from vilg import checkpoint, config

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(240)]

ADDRESSES = ("10.213.77.1", "10.213.77.2")


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts(tmp_path):
    """(hosts, a command that replaces ssh) of two hosts whose names are known to ssh only."""
    shell = tmp_path / "ssh"
    mark = uuid.uuid4().hex[:6]
    names = [f"vilg-{mark}-{number}" for number in (0, 1)]
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        _remove(made)
        pytest.skip(f"network namespaces are not permitted here: {getattr(error, 'stderr', None) or error}")
    shell.write_text('#!/bin/bash\nexec ip netns exec "$1" bash -c "$2"\n')
    shell.chmod(0o755)
    try:
        yield [f"{name} address={address}" for name, address in zip(names, ADDRESSES, strict=True)], str(shell)
    finally:
        _remove(made)


def _remove(names):
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_sharding_inside_hosts_and_replicas_across_hosts_equal_one_process(small, tmp_path, hosts):
    names, shell = hosts
    config.save(config.resolve(config.Pretraining, None, small_overrides(tmp_path)), tmp_path / "small.yaml")
    common = ["train.steps=20", "checkpoint.every_steps=10"]
    one = vilg("pretrain", "-c", str(tmp_path / "small.yaml"), "run.name=one", *common, cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    command = [
        sys.executable,
        "-m",
        "vilg.cli",
        "launch",
        "-c",
        str(tmp_path / "small.yaml"),
        "--start",
        "--hosts",
        ",".join(names),
        "--ssh",
        shell,
        "run.name=four",
        "cluster.devices_per_node=2",
        "cluster.max_restarts=0",
        "train.micro_batch=2",
        "distributed.stage=3",
        "distributed.segment_size=0",
        "cluster.environment.GLOO_SOCKET_IFNAME=cable",
        *common,
    ]
    with started(command, ROOT) as launcher:
        out, err = launcher.communicate(timeout=150)
    assert launcher.returncode == 0, out[-6000:] + err[-3000:]
    assert f"[{names[1].split()[0]} rank 3] " in out
    lines = [
        [[line[key] for key in ("loss_t2i", "loss_i2t")] for line in metrics(tmp_path / "runs" / name)]
        for name in ("one", "four")
    ]
    assert len(lines[0]) == len(lines[1]) == 20
    assert np.abs(np.subtract(*lines)).max() < 1e-5
    manifest = checkpoint.read_manifest(tmp_path / "runs" / "four" / "checkpoints" / "step-00000020")
    assert manifest.topology == {"ranks": 4, "shards": 2} and len(manifest.files) == 4
    assert not running("run.name=four")
