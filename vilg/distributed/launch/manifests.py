"""Job descriptions for schedulers that start the nodes themselves: Slurm and Kubernetes."""

import hashlib
import shlex
from pathlib import PurePosixPath

import yaml

from vilg.distributed.launch.commands import Job


def slurm(job: Job) -> str:
    """A batch script in which srun starts one fleetrun on each node. The node index comes from Slurm's environment."""
    cluster, nodes = job.settings.cluster, job.settings.cluster.nodes or 1
    line = _resuming_command(job, nodes, "$SLURM_NODEID", "$MASTER")
    return f"""#!/bin/bash
#SBATCH --job-name={shlex.quote(job.settings.run.name)}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={cluster.devices_per_node}
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@{cluster.grace_period}
export MASTER=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 bash -c {shlex.quote("exec " + line)}
"""


def kubernetes(job: Job, image: str) -> str:
    """An indexed Job with one pod for each node, and a service through which the pods find the first one."""
    cluster, nodes, name = job.settings.cluster, job.settings.cluster.nodes or 1, _name(job.settings.run.name)
    selector = {"job-name": name}
    container = {
        "name": "vilg",
        "image": image,
        "command": [
            "bash",
            "-c",
            "exec " + _resuming_command(job, nodes, "$JOB_COMPLETION_INDEX", f"{name}-0.{name}"),
        ],
        "resources": {"limits": {"nvidia.com/gpu": cluster.devices_per_node}},
        "volumeMounts": [
            # The image works in /vilg.
            {"name": "runs", "mountPath": str(PurePosixPath("/vilg") / job.settings.run.dir)},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    pod = {
        "subdomain": name,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": cluster.grace_period,
        "securityContext": {"fsGroup": 1000},  # the user of docker/*.Dockerfile needs write access to the claim
        "containers": [container],
        "volumes": [
            {"name": "runs", "persistentVolumeClaim": {"claimName": f"{name}-runs"}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": "None", "selector": selector, "publishNotReadyAddresses": True},
    }
    work = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "completions": nodes,
            "parallelism": nodes,
            "completionMode": "Indexed",
            "backoffLimit": cluster.max_restarts,
            "template": {"spec": pod},
        },
    }
    return yaml.safe_dump_all([service, work], sort_keys=False)


def _name(run: str) -> str:
    """The name of a run as a Kubernetes name: at most 52 lower-case letters, digits and hyphens, the first a letter.

    A name that loses characters gets a hash of the original, so that two runs do not share a job.
    """
    name = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in run.lower()).strip("-")
    if name == run.lower().replace("_", "-") and name[:1].isalpha() and len(name) <= 52:
        return name
    return f"vilg-{name[:30].strip('-')}-{hashlib.sha256(run.encode()).hexdigest()[:8]}".replace("--", "-")


def _resuming_command(job: Job, nodes: int, node: str, master: str) -> str:
    """The command of a node. A job that the scheduler restarts continues; its first start begins as the user says."""
    return f"{job.shell_command(nodes, node, master)} {shlex.join(job.resume_overrides())}"
