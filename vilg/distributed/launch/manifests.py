"""Job descriptions for schedulers that start the nodes themselves: Slurm and Kubernetes."""

import shlex

import yaml

from vilg.distributed.launch.commands import Job

_AGAIN = " resume=auto"  # a job that the scheduler restarts resumes; without checkpoints it starts at step 0
_NOTICE = 120  # seconds from the scheduler's SIGTERM to SIGKILL; has to suffice for one step and one checkpoint


def slurm(job: Job) -> str:
    """A batch script in which srun starts one fleetrun on each node. The node index comes from Slurm's environment."""
    cluster, nodes = job.settings.cluster, job.settings.cluster.nodes or 1
    line = job.shell_command(nodes, "$SLURM_NODEID", "$MASTER") + _AGAIN
    return f"""#!/bin/bash
#SBATCH --job-name={job.settings.run.name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={cluster.devices_per_node}
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@{_NOTICE}
export MASTER=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 bash -c {shlex.quote(line)}
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
            "exec " + job.shell_command(nodes, "$JOB_COMPLETION_INDEX", f"{name}-0.{name}") + _AGAIN,
        ],
        "resources": {"limits": {"nvidia.com/gpu": cluster.devices_per_node}},
        "volumeMounts": [
            {"name": "runs", "mountPath": f"/vilg/{job.settings.run.dir}"},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    pod = {
        "subdomain": name,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _NOTICE,
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
    """The name of a run as a Kubernetes name: lower-case letters, digits and hyphens."""
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in run.lower()).strip("-")
