"""The processes of this job, and the few things they say to each other besides gradients."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.distributed import fleet

from vilg.errors import UserError


class World:
    """This process's place among all, and collectives that cost nothing where there is only one process."""

    def __init__(self):
        # When one rank ends, fleetrun ends the others. Paddle's own handler would then print the report of a crash,
        # below which nobody finds the line that says what was wrong.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1:  # set by fleetrun
            fleet.init(is_collective=True, log_level="WARNING")
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()

    @property
    def first(self) -> bool:
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
    def together(self) -> Iterator[None]:
        """Bad input that one rank meets in this block is raised on every rank; else the others would wait for it."""
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
