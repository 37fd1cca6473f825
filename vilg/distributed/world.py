"""The processes of this job, and the few things they say to each other besides gradients."""

import faulthandler
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.distributed import fleet

from vilg import config
from vilg.distributed.rendezvous import wait_for_rank_zero
from vilg.distributed.topology import build_topology
from vilg.errors import UserError


def install_signal_handlers() -> None:
    """What this process does on the signals of those that started it."""
    # When one rank ends, fleetrun ends the others. Paddle's own handler would then print the report of a crash,
    # below which nobody finds the line that says what was wrong.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.register(signal.SIGUSR1, file=2)  # the launcher asks a rank that hangs where it stands


def independent_rank() -> tuple[int, int]:
    """(rank, ranks) of this process in a job whose ranks share out the work and say nothing to each other, so that none
    ever waits."""
    install_signal_handlers()
    return dist.get_rank(), dist.get_world_size()


class World:
    """This process's place among all, and collectives that cost nothing where there is only one process."""

    def __init__(self, settings: config.Distributed | None = None):
        """Joins the others. Raises SettingsError if the states cannot be split between so many as the settings say."""
        install_signal_handlers()
        # Both set by fleetrun.
        ranks, on_this_node = (int(os.environ.get(name, "1")) for name in ("PADDLE_TRAINERS_NUM", "PADDLE_LOCAL_SIZE"))
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
        # Nobody goes on before all are here: a rank that refuses its settings next would leave others in the middle of
        # fleet.init, and they would say that it is gone below its line that says why.
        self.barrier()

    @property
    def all_ranks(self) -> tuple[int, ...]:
        return tuple(range(self.ranks))

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    def sum(self, values: dict[str, float]) -> dict[str, float]:
        """Each value summed over all ranks; the keys are the same on every rank."""
        if self.ranks == 1:
            return dict(values)
        total = paddle.to_tensor(np.array([values[key] for key in sorted(values)], dtype=np.float64))
        dist.all_reduce(total)
        return dict(zip(sorted(values), total.tolist()))

    def sum_tensor(self, value: paddle.Tensor) -> paddle.Tensor:
        """`value` summed over all ranks, in place."""
        if self.ranks > 1:
            dist.all_reduce(value)
        return value

    def broadcast(self, value: paddle.Tensor) -> paddle.Tensor:
        """`value` of rank 0, in place."""
        if self.ranks > 1:
            dist.broadcast(value, src=0)
        return value

    def interleave(self, rows: paddle.Tensor) -> paddle.Tensor:
        """The rows [N, ..] of all ranks in the order of their positions in the data: 0 of each rank, 1 of each, .."""
        if self.ranks == 1:
            return rows
        parts = []
        dist.all_gather(parts, rows)
        return paddle.stack(parts, axis=1).reshape([-1, *rows.shape[1:]])

    def gather(self, value: Any) -> list[Any]:
        """Any picklable value of every rank, in the order of ranks."""
        if self.ranks == 1:
            return [value]
        values = []
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """Bad input that one rank meets in this block is raised on every rank; else the others would wait for it."""
        failure = None
        try:
            yield
        except UserError as error:
            failure = error
        if self.sum({"failed": float(failure is not None)})["failed"]:
            raise next(error for error in self.gather(failure) if error is not None)

    @contextmanager
    def sigterm_received(self) -> Iterator[Callable[[], bool]]:
        """SIGTERM, which a scheduler sends some time before it takes the machine away, ends no rank in this block.

        Yields a call: whether this rank got one.
        """
        got = []
        signal.signal(signal.SIGTERM, lambda *_: got.append(True))
        try:
            yield lambda: bool(got)
        except Exception:
            if got:  # fleetrun ends this rank because another one failed, and what fails here now follows from that
                raise SystemExit(128 + signal.SIGTERM) from None
            raise
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def barrier(self) -> None:
        if self.ranks > 1:
            dist.barrier()
