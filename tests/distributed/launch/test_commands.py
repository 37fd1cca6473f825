"""The commands, scripts and manifests of a job, and the errors that are reported before it starts."""

import re
import shlex
import subprocess

import pytest
import yaml

from tests.processes import ROOT
from vilg import config
from vilg.cli import main
from vilg.distributed.launch import manifests
from vilg.distributed.launch.commands import Job, read_hosts_file
from vilg.errors import UserError

BIG = str(ROOT / "fleet_configs" / "10b.yaml")


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def job(*overrides):
    return Job(BIG, list(overrides), config.resolve(config.Pretraining, BIG, list(overrides)))


def printed(capsys, *arguments):
    assert main(["launch", "-c", BIG, *arguments]) == 0
    return capsys.readouterr().out


def test_one_line_per_node_with_its_rank(capsys):
    lines = printed(capsys, "--hosts", "a,b", "run.name=x").splitlines()
    assert lines[0] == "# a" and lines[2] == "# b"
    assert shlex.split(lines[3]) == [
        "vilg",
        "fleetrun",
        "--grace_period",
        "120",
        "--nnodes",
        "2",
        "--master",
        "a:36767",
        "--rank",
        "1",
        "--host",
        "b",
        "--nproc_per_node",
        "8",
        "--log_dir",
        "runs/x/log/node-1",
        "tools/pretrain.py",
        "-c",
        BIG,
        "run.name=x",
    ]


def test_one_node_needs_no_master(capsys):
    line = printed(capsys).splitlines()[1]
    assert "--master" not in line and "--nproc_per_node 8" in line


def test_environment_variables_and_special_characters_survive_the_shell(capsys):
    odd = "data.shards=['a b/*.tar', \"c$HOME\"]"
    line = printed(capsys, "cluster.environment.NCCL_DEBUG=WARN", odd).splitlines()[1]
    echoed = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {line.removeprefix('NCCL_DEBUG=WARN ')}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert line.startswith("env NCCL_DEBUG=WARN vilg fleetrun") and odd in echoed.splitlines()


def test_a_hosts_file(tmp_path, capsys):
    file = tmp_path / "hosts"
    file.write_text("# the rack\na slots=8\n\nb\n")
    assert read_hosts_file(file) == ["a", "b"]
    assert "# b" in printed(capsys, "--hosts-file", str(file))
    file.write_text("# nobody\n")
    with pytest.raises(UserError, match="lists no host"):
        read_hosts_file(file)
    with pytest.raises(UserError, match="nowhere: no such file"):
        read_hosts_file(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--hosts", "a,b", "cluster.nodes=3"], "cluster.nodes=3: 2 hosts are given"),
        (["--hosts", "a,a"], "a host is listed twice"),
        (["--hosts", "a", "distributed.sharding_degree=16"], "does not divide the 8 processes of a node"),
        (["--hosts", "a,b,c"], "train.global_batch=2048: not a multiple of train.micro_batch=16 x 24 ranks"),
        (["--hosts", "a", "cluster.master_port=0"], "cluster.master_port=0"),
    ],
)
def test_invalid_launches_are_one_line_errors(arguments, message, capsys):
    assert main(["launch", "-c", BIG, *arguments]) > 0
    assert message in capsys.readouterr().err


def test_outside_a_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["launch", "-c", BIG]) == 1
    assert "tools/pretrain.py: no such file; start from a checkout" in capsys.readouterr().err


def test_later_attempts_resume_on_another_port():
    again = job().fleetrun_command(2, "0", "a", attempt=3)
    assert again[-1] == "resume=auto" and "a:36770" in again


@pytest.mark.parametrize("chosen", ["none", "auto", "runs/x/checkpoints/step-00001000", "s3://a b/step-00000001"])
def test_the_start_that_the_user_chose_is_kept(chosen):
    """A restarted job takes its own newest checkpoint, and while it has none the one that the user named."""
    launched = job(f"resume={chosen}")
    named = [f"checkpoint.initial_load_path={chosen}"] if chosen not in ("none", "auto") else []
    assert launched.fleetrun_command(2, "0", "a")[-1] == f"resume={chosen}"
    assert launched.fleetrun_command(2, "0", "a", attempt=1)[-1 - len(named) :] == [*named, "resume=auto"]
    ending = shlex.join([*named, "resume=auto"])
    assert shlex.split(manifests.slurm(launched).splitlines()[-1])[-1].endswith(f" {ending}")
    assert in_container(launched).endswith(f" {ending}")


def in_container(launched):
    """The shell line of a pod."""
    _, work = yaml.safe_load_all(manifests.kubernetes(launched, "image"))
    return work["spec"]["template"]["spec"]["containers"][0]["command"][2]


@pytest.mark.parametrize(
    "overrides",
    [
        ["run.name=my run", "run.dir=a b/$HOME"],
        ["cluster.environment={NCCL_DEBUG: INFO, X: 'a $b'}"],
        ["run.name=红苹果", "text.vocab=it's.txt"],
        ["run.name=a;b&c|d", "run.dir=/absolute/run's"],
    ],
)
@pytest.mark.parametrize("kind", ["slurm", "kubernetes"])
def test_printed_jobs_run_whatever_the_settings_contain(tmp_path, overrides, kind):
    """bash checks the line, and runs it with a stand-in for vilg that prints its arguments."""
    launched = job("cluster.nodes=2", *overrides)
    line = shlex.split(manifests.slurm(launched).splitlines()[-1])[-1] if kind == "slurm" else in_container(launched)
    (tmp_path / "vilg").write_text('#!/bin/bash\nprintf \'%s\\n\' "$NCCL_DEBUG" "$X" "$@"\n')
    (tmp_path / "vilg").chmod(0o755)
    subprocess.run(["bash", "-n", "-c", line], check=True, capture_output=True)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SLURM_NODEID": "1",
        "JOB_COMPLETION_INDEX": "1",
        "MASTER": "n7",
    }
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=True)
    variables, words = done.stdout.splitlines()[:2], done.stdout.splitlines()[2:]
    expected = launched.fleetrun_command(2, "1", words[words.index("--master") + 1].removesuffix(":36767"))
    assert words == [*expected[1:], "resume=auto"]
    assert variables == (["INFO", "a $b"] if "environment" in overrides[0] else ["", ""])


@pytest.mark.parametrize("name", ["红苹果", "1x", "x" * 70, "a/b", "emoji", "Big_1"])
def test_names_of_kubernetes_jobs_are_valid_and_different(name):
    service, work = yaml.safe_load_all(manifests.kubernetes(job(f"run.name={name}"), "image"))
    valid = service["metadata"]["name"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?", valid) and valid == work["metadata"]["name"]
    other = next(yaml.safe_load_all(manifests.kubernetes(job(f"run.name={name}红"), "image")))["metadata"]["name"]
    assert other != valid


@pytest.mark.parametrize("folder, mounted", [("runs", "/vilg/runs"), ("/data/runs", "/data/runs")])
def test_the_claim_is_mounted_where_the_run_is(folder, mounted):
    _, work = yaml.safe_load_all(manifests.kubernetes(job(f"run.dir={folder}"), "image"))
    assert work["spec"]["template"]["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] == mounted


def test_the_batch_script_runs_with_slurms_variables(tmp_path):
    """Scripts that print their arguments replace srun and scontrol."""
    script = manifests.slurm(job("cluster.nodes=2", "run.name=my run"))
    assert "#SBATCH --nodes=2\n" in script and "#SBATCH --gpus-per-node=8\n" in script
    for name, does in (
        ("srun", 'shift; exec "$@"'),
        ("scontrol", "printf 'n7\\nn8\\n'"),
        ("vilg", "shift 3; printf '%s\\n' \"$@\""),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "n7-8"},
    )
    words = done.stdout.splitlines()
    assert words[:6] == ["--nnodes", "2", "--master", "n7:36767", "--rank", "1"]
    assert "run.name=my run" in words and words[-1] == "resume=auto"


def test_schedulers_and_fleetrun_leave_the_same_time_for_saving():
    launched = job("cluster.grace_period=300")
    _, work = yaml.safe_load_all(manifests.kubernetes(launched, "image"))
    assert work["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 300
    assert "#SBATCH --signal=TERM@300\n" in manifests.slurm(launched)
    for line in launched.shell_command(1, "0", "a"), in_container(launched), manifests.slurm(launched).splitlines()[-1]:
        assert "vilg fleetrun --grace_period 300 " in line


def test_slurms_signal_finds_no_shell_that_would_end_before_the_ranks():
    """Slurm signals all processes of a step, and the end of its first one ends the step."""
    assert shlex.split(manifests.slurm(job()).splitlines()[-1])[-1].startswith("exec ")


def test_the_manifest_is_an_indexed_job_and_its_service():
    service, work = yaml.safe_load_all(manifests.kubernetes(job("cluster.nodes=4", "run.name=Big_1"), "me/vilg:1"))
    assert service["kind"] == "Service" and work["kind"] == "Job"
    assert service["metadata"]["name"] == work["metadata"]["name"] == "big-1"
    assert work["spec"]["completions"] == work["spec"]["parallelism"] == 4
    assert work["spec"]["completionMode"] == "Indexed"
    container = work["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "me/vilg:1" and container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert "--rank $JOB_COMPLETION_INDEX" in container["command"][2]
    assert "--master big-1-0.big-1:36767" in container["command"][2]


def test_overrides_can_be_anywhere_among_the_options(capsys):
    line = printed(capsys, "run.name=x", "--hosts", "a", "run.seed=2").splitlines()[1]
    assert line.endswith(" run.name=x run.seed=2")
    with pytest.raises(SystemExit) as caught:
        main(["launch", "-c", BIG, "run.name=x", "--hosts", "a", "b"])
    assert caught.value.code == 2 and "unrecognized arguments: b" in capsys.readouterr().err
