"""Stands for tools/pretrain.py: the loss of some samples is NaN, and the first write of a checkpoint file fails.

    spike_program.py POSITION,POSITION.. -c FILE [key=value ..]

Only the rank that has a sample computes NaN, and only the last rank fails to write.
"""

import errno
import math
import sys

import paddle.distributed as dist

from vilg.checkpoint import slices
from vilg.cli import main
from vilg.distributed.shutdown import run_and_exit
from vilg.training.pretraining import Pretraining

POSITIONS = {int(word) for word in sys.argv[1].split(",")}
batches, losses, write = Pretraining.batches, Pretraining.losses, slices.write
writes = []


def count_from(objective: Pretraining, consumed: int):
    objective.next_position = consumed + objective.world.rank
    return batches(objective, consumed)


def poisoned(objective: Pretraining, inputs, model):
    own = range(objective.next_position, 10**9, objective.world.ranks)[: len(inputs.names)]
    objective.next_position = own[-1] + objective.world.ranks
    for name, loss in losses(objective, inputs, model):
        yield name, loss * math.nan if POSITIONS & set(own) else loss


def failing(*arguments):
    writes.append(1)
    if len(writes) == 1 and dist.get_rank() == dist.get_world_size() - 1:
        raise OSError(errno.ENOSPC, "no space left on device")
    return write(*arguments)


if __name__ == "__main__":
    Pretraining.batches, Pretraining.losses, slices.write = count_from, poisoned, failing
    run_and_exit(lambda: main(["pretrain", *sys.argv[2:]]))
