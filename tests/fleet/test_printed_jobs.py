"""A printed batch script, run as Slurm would, with the real fleetrun."""

import os
import shlex
import sys
from pathlib import Path

import pytest

from tests.conftest import small_overrides
from tests.distributed.launch.printed_jobs import stand_ins
from tests.processes import ROOT, metrics, run, running
from vilg import checkpoint, config

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(240)]

NAME = "红苹果 $HOME it's"


def test_the_batch_script_trains_on_two_nodes(small, tmp_path):
    """srun is replaced by a program that starts both nodes here, under an address that means this machine."""
    settings = config.resolve(config.Pretraining, None, [*small_overrides(tmp_path), f"run.dir={tmp_path}/all runs"])
    config.save(settings, tmp_path / "small.yaml")
    launch = [sys.executable, "-m", "vilg.cli", "launch", "--slurm", "-c", str(tmp_path / "small.yaml")]
    options = [f"run.name={NAME}", "cluster.nodes=2", "cluster.devices_per_node=1", "train.steps=4"]
    printed = run([*launch, *options], ROOT)
    assert printed.returncode == 0, printed.stderr
    (tmp_path / "job.sh").write_text(printed.stdout)
    path = stand_ins(
        tmp_path,
        srun='shift; for node in 0 1; do SLURM_NODEID=$node "$@" & done; wait -n && wait -n',
        getent="echo 127.0.1.1 STREAM n7",
        hostname="echo 127.0.0.2",
        vilg=f'exec {shlex.quote(sys.executable)} -m vilg.cli "$@"',
    )
    variables = [f"PATH={path}:{os.environ['PATH']}", "SLURMD_NODENAME=n7"]
    # timeout ends the nodes too, which would otherwise wait for each other.
    done = run(["env", *variables, "timeout", "-k", "10", "80", "bash", str(tmp_path / "job.sh")], ROOT)
    folder = Path(tmp_path / "all runs" / NAME)
    logs = "".join(log.read_text(errors="replace") for log in sorted(folder.glob("log/*/workerlog.*")))
    assert done.returncode == 0, done.stderr[-3000:] + logs[-3000:]
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3, 4]
    newest = checkpoint.checkpoints_in(folder / "checkpoints")[-1]
    assert checkpoint.read_manifest(newest).topology["ranks"] == 2
    assert not running(f"run.name={NAME}")
