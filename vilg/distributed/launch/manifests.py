"""Job descriptions for schedulers that start the nodes themselves: Slurm and Kubernetes."""

import hashlib
import posixpath
import shlex
from pathlib import PurePosixPath

import yaml

from vilg import config
from vilg.distributed.launch.commands import Job
from vilg.errors import UserError

# Shell: the IPv4 address of this node, which fleetrun needs instead of a name. On Debian, a node finds only 127.0.1.1
# for its own name; then its first address is taken.
_OWN_ADDRESS = 'getent ahostsv4 "$SLURMD_NODENAME" | grep -v ^127 | grep . || hostname -I'


def slurm(job: Job) -> str:
    """A batch script in which srun starts one fleetrun on each node. The node index comes from Slurm's environment.

    Slurm runs the script itself on the first node.
    """
    cluster, nodes = job.settings.cluster, job.settings.cluster.nodes or 1
    command = _resuming_command(job, nodes, "$SLURM_NODEID", "$MASTER", "$HOST")
    line = f"read -r HOST _ < <({_OWN_ADDRESS}); exec {command}"
    return f"""#!/bin/bash
#SBATCH --job-name={_slurm_name(job.settings.run.name)}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={cluster.devices_per_node}
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@{cluster.grace_period}
read -r MASTER _ < <({_OWN_ADDRESS})
export MASTER
srun --kill-on-bad-exit=1 bash -c {shlex.quote(line)}
"""


def kubernetes(job: Job, image: str) -> str:
    """An indexed Job with one pod for each node, and a service through which the pods find the first one."""
    cluster, name = job.settings.cluster, _kubernetes_name(job.settings.run.name)
    nodes = cluster.nodes or 1
    selector = {"job-name": name}
    line = _resuming_command(job, nodes, "$JOB_COMPLETION_INDEX", f"{name}-0.{name}", "$HOST")
    container = {
        "name": "vilg",
        "image": image,
        # An indexed Job names its pods NAME-INDEX.
        "command": ["bash", "-c", f"HOST={name}-$JOB_COMPLETION_INDEX.{name}; exec {line}"],
        "resources": {"limits": {"nvidia.com/gpu": cluster.devices_per_node}},
        "volumeMounts": [
            *_claim_mounts(job.settings),
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


def _claim_mounts(settings: config.Pretraining) -> list[dict[str, str]]:
    """Where the claim for the runs is mounted: at run.dir and, if that does not contain it, at checkpoint.folder."""
    runs = _in_image(settings.run.dir)
    mounts = [{"name": "runs", "mountPath": str(runs)}]
    folder = settings.checkpoint.folder
    if folder and "://" not in folder and not _in_image(folder).is_relative_to(runs):
        mounts.append({"name": "runs", "mountPath": str(_in_image(folder)), "subPath": "checkpoints"})
    return mounts


def _in_image(path: str) -> PurePosixPath:
    """A path of the settings in the image, which works in /vilg."""
    return PurePosixPath(posixpath.normpath(PurePosixPath("/vilg") / path))


def _slurm_name(run: str) -> str:
    """The name of a run as a word that needs no quotes in a line of sbatch."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in run)


def _kubernetes_name(run: str) -> str:
    """The name of a run as a Kubernetes name: at most 52 lower-case letters, digits and hyphens, the first a letter.

    A name that loses characters gets a hash of the original, so that two runs do not share a job.
    """
    name = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in run.lower()).strip("-")
    if name == run.lower().replace("_", "-") and name[:1].isalpha() and len(name) <= 52:
        return name
    return f"vilg-{name[:30].strip('-')}-{hashlib.sha256(run.encode()).hexdigest()[:8]}".replace("--", "-")


def _resuming_command(job: Job, nodes: int, node: str, master: str, host: str) -> str:
    """The command of a node. A job that the scheduler restarts continues; its first start begins as the user says.

    Raises UserError for resume=step:N: the scheduler gives the first start and restarts the same command, and a restart
    has to take the newest checkpoint.
    """
    if job.settings.resume.step is not None:
        raise UserError(
            f"resume={job.settings.resume.checkpoint}: a printed job always takes the run's newest checkpoint; remove "
            "the later ones, or start a new run with resume=PATH and another run.name"
        )
    return f"{job.shell_command(nodes, node, master, host)} {shlex.join(job.resume_overrides())}"
