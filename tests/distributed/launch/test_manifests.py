"""The batch script for Slurm and the manifest for Kubernetes, run and checked with stand-ins for both."""

import re
import shlex
import subprocess

import pytest

from tests.distributed.launch.printed_jobs import job, manifest_of, pod_of, stand_ins
from tests.processes import ROOT
from vilg.distributed.launch import manifests

PRINT = 'printf "%s\\n" "$NCCL_DEBUG" "$X" "$@"'
# Node 1 of Slurm and of Kubernetes, on a host whose own name means 127.0.1.1, as on Debian.
NODE = {"SLURM_NODEID": "1", "SLURMD_NODENAME": "n8", "JOB_COMPLETION_INDEX": "1", "MASTER": "10.0.0.7"}
DEBIAN = {"getent": "echo 127.0.1.1 STREAM n8", "hostname": "echo 10.0.0.8 172.17.0.1 fd00::8"}
ODD = [
    ["run.name=my run", "run.dir=a b/$HOME"],
    ["cluster.environment={NCCL_DEBUG: INFO, X: 'a $b'}"],
    ["run.name=红苹果", "text.vocab=it's.txt"],
    ["run.name=a;b&c|d", "run.dir=/absolute/run's"],
    ['run.name=x#1 `id` "x" it\'s', "checkpoint.folder=/keep/$1"],
]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def run(script, path, **variables):
    """Check a shell script, run it, and return what it printed."""
    subprocess.run(["bash", "-n", "-c", script], check=True, capture_output=True)
    done = subprocess.run(["bash", "-c", script], env={"PATH": path, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("overrides", ODD)
@pytest.mark.parametrize("kind", ["slurm", "kubernetes"])
def test_printed_jobs_run_whatever_the_settings_contain(tmp_path, overrides, kind):
    """bash checks the line, and runs it with a stand-in for vilg that prints its arguments."""
    launched = job("cluster.nodes=2", *overrides)
    if kind == "slurm":
        line = shlex.split(manifests.slurm(launched).splitlines()[-1])[-1]
        master, host = "10.0.0.7", "10.0.0.8"
    else:
        line = pod_of(launched)["containers"][0]["command"][2]
        name = manifest_of(launched)[0]["metadata"]["name"]
        master, host = f"{name}-0.{name}", f"{name}-1.{name}"
    words = run(line, stand_ins(tmp_path, vilg=PRINT, **DEBIAN), **NODE)
    assert words[:2] == (["INFO", "a $b"] if "environment" in overrides[0] else ["", ""])
    assert words[2:] == [*launched.fleetrun_command(2, "1", master, host=host)[1:], "resume=auto"]


@pytest.mark.parametrize("names", ["n7", "10.0.0.7"])
def test_the_first_node_considers_itself_the_master(tmp_path, names):
    """fleetrun starts its server where --host equals the master, and takes both only if they contain a dot."""
    resolved = DEBIAN if names == "n7" else {"getent": "echo 10.0.0.8 STREAM n7; echo 10.0.0.8 DGRAM"}
    path = stand_ins(tmp_path, srun='shift; exec "$@"', vilg='printf "%s\\n" "$@"', **resolved)
    words = run(manifests.slurm(job("cluster.nodes=2")), path, **NODE | {"SLURM_NODEID": "0"})
    assert words[3:11] == ["--nnodes", "2", "--master", "10.0.0.8:36767", "--rank", "0", "--host", "10.0.0.8"]

    line = pod_of(job("cluster.nodes=2", "run.name=x"))["containers"][0]["command"][2]
    words = run(line, path, JOB_COMPLETION_INDEX="0")
    assert words[3:11] == ["--nnodes", "2", "--master", "x-0.x:36767", "--rank", "0", "--host", "x-0.x"]


@pytest.mark.parametrize("overrides", [["run.name=my run"], *ODD])
def test_the_batch_script_runs_with_slurms_variables(tmp_path, overrides):
    """Stand-ins for sbatch, which reads the header, and for srun, which starts the line on both nodes."""
    launched = job("cluster.nodes=2", *overrides)
    script = manifests.slurm(launched)
    assert "#SBATCH --nodes=2\n" in script and "#SBATCH --gpus-per-node=8\n" in script
    header = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    assert all(shlex.split(line, comments=True) == [line] for line in header), "a line of the header needs no quotes"
    assert header[0] == "--job-name=" + re.sub(r"[^-.\w]", "_", launched.settings.run.name)
    (tmp_path / "job.sh").write_text(script)
    path = stand_ins(
        tmp_path,
        sbatch='grep "^#SBATCH --" "$1" > "$0.header"; exec bash "$1"',
        srun='shift; for node in 0 1; do SLURM_NODEID=$node "$@"; done',
        vilg='printf "%s\\n" "$@"',
        **DEBIAN,
    )
    words = run(f"sbatch {shlex.quote(str(tmp_path / 'job.sh'))}", path, SLURMD_NODENAME="n7")
    assert len((tmp_path / "sbatch.header").read_text().splitlines()) == len(header)
    expected = [
        word
        for node in "01"
        for word in [*launched.fleetrun_command(2, node, "10.0.0.8", host="10.0.0.8")[1:], "resume=auto"]
    ]
    assert words == expected


@pytest.mark.parametrize("name", ["红苹果", "1x", "x" * 70, "a/b", "emoji", "Big_1"])
def test_names_of_kubernetes_jobs_are_valid_and_different(name):
    service, work = manifest_of(job(f"run.name={name}"))
    valid = service["metadata"]["name"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?", valid) and valid == work["metadata"]["name"]
    other = manifest_of(job(f"run.name={name}红"))[0]["metadata"]["name"]
    assert other != valid


@pytest.mark.parametrize(
    "overrides, mounted",
    [
        (["run.dir=runs"], {"/vilg/runs": None}),
        (["run.dir=/data/runs"], {"/data/runs": None}),
        (["run.dir=a/../runs/"], {"/vilg/runs": None}),
        (["checkpoint.folder=runs/kept"], {"/vilg/runs": None}),
        (["checkpoint.folder=/vilg/runs"], {"/vilg/runs": None}),
        (["checkpoint.folder=s3://bucket/runs"], {"/vilg/runs": None}),
        (["checkpoint.folder=/kept"], {"/vilg/runs": None, "/kept": "checkpoints"}),
        (["checkpoint.folder=kept", "run.dir=/data"], {"/data": None, "/vilg/kept": "checkpoints"}),
        (["checkpoint.folder=/vilg/runs-kept"], {"/vilg/runs": None, "/vilg/runs-kept": "checkpoints"}),
    ],
)
def test_the_claim_is_mounted_where_runs_and_checkpoints_are(overrides, mounted):
    mounts = pod_of(job(*overrides))["containers"][0]["volumeMounts"]
    assert {mount["mountPath"]: mount.get("subPath") for mount in mounts if mount["name"] == "runs"} == mounted


def test_schedulers_and_fleetrun_leave_the_same_time_for_saving():
    launched = job("cluster.grace_period=300")
    assert pod_of(launched)["terminationGracePeriodSeconds"] == 300
    assert "#SBATCH --signal=TERM@300\n" in manifests.slurm(launched)
    for line in (
        launched.shell_command(1, "0", "a"),
        pod_of(launched)["containers"][0]["command"][2],
        manifests.slurm(launched).splitlines()[-1],
    ):
        assert "vilg fleetrun --grace_period 300 " in line


def test_slurms_signal_finds_no_shell_that_would_end_before_the_ranks():
    """Slurm signals all processes of a step, and the end of its first one ends the step."""
    assert shlex.split(manifests.slurm(job()).splitlines()[-1])[-1].rpartition("; ")[2].startswith("exec ")


def test_the_manifest_is_an_indexed_job_and_its_service():
    service, work = manifest_of(job("cluster.nodes=4", "run.name=Big_1"))
    assert service["kind"] == "Service" and work["kind"] == "Job"
    assert service["metadata"]["name"] == work["metadata"]["name"] == "big-1"
    assert work["spec"]["completions"] == work["spec"]["parallelism"] == 4
    assert work["spec"]["completionMode"] == "Indexed"
    container = work["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "me/vilg:1" and container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert "--rank $JOB_COMPLETION_INDEX" in container["command"][2]
    assert "--master big-1-0.big-1:36767" in container["command"][2]


@pytest.mark.parametrize("version", ["1.28", "1.37"])
@pytest.mark.parametrize("overrides", [[], *ODD])
def test_the_manifest_fits_the_schema_of_kubernetes(overrides, version):
    """The strict schema, in which an unknown field is an error."""
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for description in manifest_of(job("cluster.nodes=2", *overrides)):
        validator.validate(description, version, strict=True)
    work = manifest_of(job(*overrides))[1]
    work["spec"]["template"]["spec"]["containers"][0]["volumeMounts"][0]["mountpath"] = "/x"
    with pytest.raises(validator.ValidationError):
        validator.validate(work, version, strict=True)
