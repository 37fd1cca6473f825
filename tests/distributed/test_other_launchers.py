"""Processes that srun or mpirun has started without fleetrun are refused."""

import pytest

from vilg.distributed.world import World, independent_rank
from vilg.errors import UserError


@pytest.fixture(autouse=True)
def without_fleetrun(monkeypatch):
    monkeypatch.delenv("PADDLE_TRAINERS_NUM", raising=False)


@pytest.mark.parametrize(
    "name, launcher",
    [("SLURM_STEP_NUM_TASKS", "srun"), ("OMPI_COMM_WORLD_SIZE", "mpirun"), ("PMI_SIZE", "mpirun")],
)
@pytest.mark.parametrize("start", [World, independent_rank])
def test_one_of_several_processes_is_refused(monkeypatch, name, launcher, start):
    monkeypatch.setenv(name, "1")
    start()
    monkeypatch.setenv(name, "2")
    with pytest.raises(UserError, match=f"^{name}=2: {launcher} has started 2 processes .* `vilg fleetrun .*launch"):
        start()


def test_a_fleetrun_that_srun_has_started_is_not(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "1")
    World()


def test_one_process_in_a_batch_script_of_several_tasks_is_not(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "8")
    World()
