"""The processes of a job: rank, topology, and collectives for everything except gradients."""

import faulthandler
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.distributed import fleet

from vilg import config
from vilg.arrays import to_numpy
from vilg.distributed.other_launchers import refuse_other_launchers
from vilg.distributed.processes import die_with_fleetrun
from vilg.distributed.rendezvous import wait_for_rank_zero
from vilg.distributed.topology import build_topology
from vilg.errors import UserError

Value = TypeVar("Value")


def install_signal_handlers() -> None:
    """Set the reactions of this process to SIGTERM, to SIGUSR1, to signals that end it, such as SIGSEGV, and to the end
    of its fleetrun.
    """
    die_with_fleetrun()
    # When one rank ends, fleetrun ends the others. Paddle's own handler would then print a crash report, which hides
    # the actual error message.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.enable(file=2)  # prints the Python stack; Paddle's handler, which prints the C++ stack, runs after it
    faulthandler.register(signal.SIGUSR1, file=2)  # the launcher requests the stacks of a stalled rank


def independent_rank() -> tuple[int, int]:
    """(rank, ranks) of a job whose ranks divide the work without communicating, so that no rank ever waits for
    another.
    """
    install_signal_handlers()
    refuse_other_launchers()
    return dist.get_rank(), dist.get_world_size()


def _read_count(name: str) -> int:
    """A variable that fleetrun sets; 1 without it. Raises UserError."""
    value = os.environ.get(name, "1")
    if not value.isdecimal() or int(value) < 1:
        raise UserError(f"{name}={value}: not a number of processes; unset it, or start with fleetrun")
    return int(value)


def _check_launched(ranks: int) -> None:
    """Raise UserError if the number of ranks is left over in the environment of a process without a launcher."""
    for names in (("PADDLE_TRAINER_ID",), ("PADDLE_MASTER", "PADDLE_TRAINER_ENDPOINTS")):
        if not any(os.environ.get(name) for name in names):
            raise UserError(
                f"PADDLE_TRAINERS_NUM={ranks}, but {' or '.join(names)} is not set: start with fleetrun, or unset it"
            )


class World:
    """The rank of this process and collectives over all ranks. With a single process the collectives cost nothing."""

    def __init__(self, settings: config.Distributed | None = None):
        """Join the other processes. Raises SettingsError if the states cannot be sharded as the settings ask."""
        install_signal_handlers()
        refuse_other_launchers()
        ranks, on_this_node = map(_read_count, ("PADDLE_TRAINERS_NUM", "PADDLE_LOCAL_SIZE"))
        if ranks > 1:
            _check_launched(ranks)
        self.topology = build_topology(settings or config.Distributed(), ranks, on_this_node)
        self.ranks = ranks
        if ranks > 1:
            self._join()
        self.rank = dist.get_rank()
        self.shard = self.rank % self.topology.shards

    def _join(self) -> None:
        if paddle.get_device() == "cpu":
            from vilg.distributed import cpu

            cpu.install()
        strategy = fleet.DistributedStrategy()
        strategy.hybrid_configs = {"dp_degree": self.topology.replicas, "sharding_degree": self.topology.shards}
        wait_for_rank_zero()
        fleet.init(is_collective=True, strategy=strategy, log_level="WARNING")
        self.fleet_groups = fleet.get_hybrid_communicate_group()
        self.sharding_group = self.fleet_groups.get_sharding_parallel_group()
        self.replica_group = self.fleet_groups.get_data_parallel_group()
        # Wait for all ranks. If a rank that refuses its settings ended earlier, the others would fail in fleet.init
        # and report a lost peer after the actual error message.
        self.barrier()

    @property
    def all_ranks(self) -> tuple[int, ...]:
        return tuple(range(self.ranks))

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, which writes files that exist once per job."""
        return self.rank == 0

    def sum(self, values: dict[str, float]) -> dict[str, float]:
        """Sum each value over all ranks. The keys have to be the same on every rank."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: dict[str, float]) -> dict[str, float]:
        """The largest of each value on all ranks. The keys have to be the same on every rank."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: dict[str, float], operation: Literal[0, 1]) -> dict[str, float]:
        if self.ranks == 1:
            return dict(values)
        reduced = paddle.to_tensor(np.array([values[key] for key in sorted(values)], dtype=np.float64))
        dist.all_reduce(reduced, op=operation)
        return dict(zip(sorted(values), to_numpy(reduced).tolist()))

    def sum_tensor(self, value: paddle.Tensor) -> paddle.Tensor:
        """Sum `value` over all ranks, in place."""
        if self.ranks > 1:
            dist.all_reduce(value)
        return value

    def broadcast(self, value: paddle.Tensor) -> paddle.Tensor:
        """Replace `value` by the value of rank 0, in place."""
        if self.ranks > 1:
            dist.broadcast(value, src=0)
        return value

    def interleave(self, rows: paddle.Tensor) -> paddle.Tensor:
        """Collect the rows [N, ..] of all ranks in the order of the data: row 0 of each rank, row 1 of each rank, and
        so on.
        """
        if self.ranks == 1:
            return rows
        parts: list[paddle.Tensor] = []
        dist.all_gather(parts, rows)
        return paddle.stack(parts, axis=1).reshape([-1, *rows.shape[1:]])

    def gather(self, value: Value) -> list[Value]:
        """Collect a picklable value from every rank, in rank order."""
        if self.ranks == 1:
            return [value]
        values: list[Value] = []
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """A UserError of one rank in this block is raised on all ranks. Otherwise the others would wait for that
        rank.
        """
        failure = None
        try:
            yield
        except UserError as error:
            failure = error
        if self.sum({"failed": float(failure is not None)})["failed"]:
            raise next(error for error in self.gather(failure) if error is not None)

    def barrier(self) -> None:
        if self.ranks > 1:
            dist.barrier()
