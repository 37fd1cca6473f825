"""What the tests of printed jobs share: a job, the pods of its manifest, and stand-ins for programs of a cluster."""

from pathlib import Path

import yaml

from tests.processes import ROOT
from vilg import config
from vilg.distributed.launch import manifests
from vilg.distributed.launch.commands import Job

BIG = str(ROOT / "fleet_configs" / "10b.yaml")


def job(*overrides: str) -> Job:
    return Job(BIG, list(overrides), config.resolve(config.Pretraining, BIG, list(overrides)))


def manifest_of(launched: Job) -> list[dict]:
    """The service and the indexed Job of a manifest."""
    return list(yaml.safe_load_all(manifests.kubernetes(launched, "me/vilg:1")))


def pod_of(launched: Job) -> dict:
    return manifest_of(launched)[1]["spec"]["template"]["spec"]


def stand_ins(folder: Path, **programs: str) -> str:
    """Make programs out of lines of bash. Returns a PATH on which they come first."""
    for name, does in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{does}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:/usr/bin:/bin"
