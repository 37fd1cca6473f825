"""The commands of a job, and the errors that are reported before it starts."""

import itertools
import shlex
import subprocess

import pytest

from tests.distributed.launch.printed_jobs import BIG, job, pod_of, stand_ins
from tests.processes import ROOT
from vilg import config
from vilg.cli import main
from vilg.distributed.launch import manifests
from vilg.errors import UserError


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def printed(capsys, *arguments):
    assert main(["launch", "-c", BIG, *arguments]) == 0
    return capsys.readouterr().out


def test_one_line_per_node_with_its_rank(capsys):
    lines = printed(capsys, "--hosts", "a.lab,b.lab", "run.name=x").splitlines()
    assert lines[0] == "# a.lab" and lines[2] == "# b.lab"
    assert shlex.split(lines[3]) == [
        "vilg",
        "fleetrun",
        "--grace_period",
        "120",
        "--nnodes",
        "2",
        "--master",
        "a.lab:36767",
        "--rank",
        "1",
        "--host",
        "b.lab",
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
    file.write_text("a.lab\nb.lab\n")
    assert "# b.lab" in printed(capsys, "--hosts-file", str(file))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--hosts", "a,b", "cluster.nodes=3"], "cluster.nodes=3: 2 hosts are given"),
        (["--hosts", "a.lab,a.lab"], "a host is listed twice"),
        (["--hosts", "a", "distributed.sharding_degree=16"], "does not divide the 8 processes of a node"),
        (["--hosts", "a,b,c"], "train.global_batch=2048: not a multiple of train.micro_batch=16 x 24 ranks"),
        (["--hosts", "a", "cluster.master_port=0"], "cluster.master_port=0"),
        (["--hosts", "a", "cluster.master_port=65521"], "must be a port, at most 65520, because restarts"),
        (["--hosts", "no-such-host.invalid,no-such-host"], "no-such-host address="),
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


@pytest.mark.parametrize("first", [1, 36767, 65520])
def test_every_attempt_has_a_valid_port_and_not_that_of_the_attempt_before(first):
    cluster = config.Cluster(master_port=first, max_restarts=10**6)
    ports = [cluster.port_of(attempt) for attempt in range(100)]
    assert ports[0] == first and all(0 < port < 65536 for port in ports)
    assert all(one != other for one, other in itertools.pairwise(ports))


@pytest.mark.parametrize("chosen", ["none", "auto", "runs/x/checkpoints/step-00001000", "s3://a b/step-00000001"])
def test_the_start_that_the_user_chose_is_kept(chosen):
    """A restarted job takes its own newest checkpoint, and while it has none the one that the user named."""
    launched = job(f"resume={chosen}")
    named = [f"checkpoint.initial_load_path={chosen}"] if chosen not in ("none", "auto") else []
    assert launched.fleetrun_command(2, "0", "a")[-1] == f"resume={chosen}"
    assert launched.fleetrun_command(2, "0", "a", attempt=1)[-1 - len(named) :] == [*named, "resume=auto"]
    ending = shlex.join([*named, "resume=auto"])
    assert shlex.split(manifests.slurm(launched).splitlines()[-1])[-1].endswith(f" {ending}")
    assert pod_of(launched)["containers"][0]["command"][2].endswith(f" {ending}")


def test_going_back_to_a_step_is_for_one_start():
    """A restart takes the newest checkpoint, which is that of the step or a later one of its continuation."""
    launched = job("resume=step:1200", "resume.allow=[later_checkpoints]")
    assert launched.fleetrun_command(2, "0", "a")[-2:] == ["resume=step:1200", "resume.allow=[later_checkpoints]"]
    assert launched.fleetrun_command(2, "0", "a", attempt=1)[-2:] == ["resume.allow=[later_checkpoints]", "resume=auto"]
    for printed_job in (manifests.slurm, lambda job: manifests.kubernetes(job, "image")):
        with pytest.raises(UserError, match="resume=step:1200: a printed job always takes the run's newest checkpoint"):
            printed_job(launched)


@pytest.mark.parametrize("name", ["红苹果", "two words", "$HOME", "it's;a&b"])
def test_printed_lines_run_whatever_the_settings_contain(tmp_path, capsys, name):
    """bash checks and runs them, with a stand-in for vilg that prints its arguments."""
    lines = printed(
        capsys, "--hosts", "a.lab,b.lab", f"run.name={name}", "cluster.environment={X: 'a $b'}"
    ).splitlines()
    path = stand_ins(tmp_path, vilg='printf "%s\\n" "$X" "$@"')
    for node, line in enumerate(lines[1::2]):
        subprocess.run(["bash", "-n", "-c", line], check=True, capture_output=True)
        done = subprocess.run(["bash", "-c", line], env={"PATH": path}, capture_output=True, text=True, check=True)
        launched = job(f"run.name={name}", "cluster.environment={X: 'a $b'}")
        expected = launched.fleetrun_command(2, str(node), "a.lab", host="ab"[node] + ".lab")
        assert done.stdout.splitlines() == ["a $b", *expected[1:]]


def test_overrides_can_be_anywhere_among_the_options(capsys):
    line = printed(capsys, "run.name=x", "--hosts", "a", "run.seed=2").splitlines()[1]
    assert line.endswith(" run.name=x run.seed=2")
    with pytest.raises(SystemExit) as caught:
        main(["launch", "-c", BIG, "run.name=x", "--hosts", "a", "b"])
    assert caught.value.code == 2 and "unrecognized arguments: b" in capsys.readouterr().err
