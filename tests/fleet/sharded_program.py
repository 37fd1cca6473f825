"""Started by fleetrun: trains the real model in both directions under the given settings, and says what a rank held.

    sharded_program.py OUT_FOLDER '{"stage": 3, ..}' ACCUMULATION

Writes OUT_FOLDER/rank-N.json, and the model as a checkpoint, which any number of ranks can read.
"""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np

import vilg  # noqa: F401
import paddle
import paddle.distributed as dist

from vilg import checkpoint, config
from vilg.attention.patterns import DIRECTIONS
from vilg.distributed.engine import Engine
from vilg.distributed.world import World
from vilg.model.loss import summed_nll
from vilg.model.transformer import Transformer, targets
from vilg.training.optimizer import adamw

WORDS, CODES, TEXT, GRID, BATCH, STEPS = 37, 23, 12, (6, 5), 16, 20
# Decay that a rule which misses a renamed parameter would be seen by; clipping that works in every step.
TRAIN = config.Train(lr=2e-3, weight_decay=0.5, clip=0.5)


def batches():
    """(text, image) of the whole job, for each step."""
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        yield rng.integers(0, WORDS, [BATCH, TEXT]), rng.integers(0, CODES, [BATCH, GRID[0] * GRID[1]])


def losses(text, image, model):
    for direction in DIRECTIONS:
        yield direction, summed_nll(model(direction, text, image), *targets(direction, text, image, WORDS))


def counting(calls: list[str]) -> None:
    """Note each collective that sends tensors."""
    def counted(name, real):
        def call(*arguments, **options):
            calls.append(name)
            return real(*arguments, **options)

        return call

    for name in ("all_reduce", "reduce", "broadcast"):
        setattr(dist, name, counted(name, getattr(dist, name)))


def elements(tensors) -> int:
    return sum(tensor.size for tensor in tensors if tensor is not None and tensor._is_initialized())


def held(engine, model) -> dict[str, int]:
    """Elements that this rank really has between the last backward pass and the update."""
    parameters = list(model.parameters())
    return {
        "parameters": elements([*parameters, *(getattr(one, "fw_storage", None) for one in parameters)]),
        "gradients": elements([*(one.grad for one in parameters if one._is_initialized()),
                               *(getattr(one, "bw_storage", None) for one in parameters)]),
        "moments": elements(value for name, value in engine._optimizer.state_dict().items() if "_moment" in name),
    }


def main(out: Path, settings: config.Distributed, accumulation: int) -> None:
    world, calls = World(settings), []
    paddle.seed(3)
    model = Transformer(config.Model(layers=4, hidden=64, heads=2, conv_kernel=3), WORDS, CODES, TEXT, GRID)
    total = elements(model.parameters())
    engine = Engine(world, model, partial(adamw, TRAIN), TRAIN.clip, settings)
    counting(calls)
    counts = {DIRECTIONS[0]: BATCH * GRID[0] * GRID[1], DIRECTIONS[1]: BATCH * (TEXT - 1)}
    factors = {name: world.ranks / count for name, count in counts.items()}
    share = BATCH // world.ranks // accumulation
    lines = []
    for text, image in batches():
        sums, before = dict.fromkeys(DIRECTIONS, 0.0), len(calls)
        for micro in range(accumulation):
            rows = slice((micro * world.ranks + world.rank) * share, (micro * world.ranks + world.rank + 1) * share)
            mine = partial(losses, paddle.to_tensor(text[rows]), paddle.to_tensor(image[rows]))
            for name, value in engine.micro_step(mine, factors).items():
                sums[name] += value / counts[name]
        while_computing = calls[before:]
        last = held(engine, model)
        norm = engine.step(TRAIN.lr)
        lines.append([*(world.sum(sums)[name] for name in DIRECTIONS), norm])
    checkpoint.save(out, world, engine.state(), STEPS, STEPS * BATCH, {}, {}, 1)
    out.joinpath(f"rank-{world.rank}.json").write_text(json.dumps({
        "lines": lines, "total": total, "held": last, "while_computing": len(while_computing)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), config.Distributed(**json.loads(sys.argv[2])), int(sys.argv[3]))
