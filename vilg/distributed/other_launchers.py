"""Refuses processes that a launcher other than fleetrun has started: each of them would train the whole run alone."""

import os

from vilg.errors import UserError

# The variable in which a launcher tells its processes how many they are.
_NUMBER_OF_PROCESSES = {
    "SLURM_STEP_NUM_TASKS": "srun",  # not SLURM_NTASKS, which a batch script has as well, and it is one process
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
    "WORLD_SIZE": "torchrun",
}


def refuse_other_launchers() -> None:
    """Raise UserError if this is one of several processes that do not know of each other."""
    if "PADDLE_TRAINERS_NUM" in os.environ:  # from fleetrun, which may itself have been started by srun
        return
    for name, launcher in _NUMBER_OF_PROCESSES.items():
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > 1:
            raise UserError(
                f"{name}={value}: {launcher} has started {value} processes that would each train alone; start one "
                "`vilg fleetrun --nproc_per_node N tools/..` on each node, as `vilg launch --slurm` prints it, or unset"
                f" {name}"
            )
