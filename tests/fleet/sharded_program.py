"""Started by fleetrun: trains the real model in both directions with the given settings, and reports the memory of a
rank.

    sharded_program.py OUT_FOLDER '{"stage": 3, ..}' ACCUMULATION [--direction D] [--resume CHECKPOINT] [--steps N]
        [--overflow]

With --direction only this one is trained, and the likelihood of the other one is measured after each step. With
--overflow the first step is made twice, at first with a loss of rank 1 that is too large for fp16.

Writes OUT_FOLDER/rank-N.json, and the model as a checkpoint, which any number of ranks can read.
"""

import argparse
import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.distributed.fleet.meta_parallel.sharding import group_sharded_stage3
from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_storage import GradStorage

import vilg  # noqa: F401
from vilg import checkpoint, config
from vilg.attention.patterns import DIRECTIONS
from vilg.distributed.engine import Engine
from vilg.distributed.main_gradients import gradient
from vilg.distributed.shutdown import exit_process
from vilg.distributed.world import World
from vilg.model.loss import summed_nll
from vilg.model.transformer import Transformer, targets
from vilg.training.optimizer import adamw

WORDS, CODES, TEXT, GRID, BATCH, STEPS = 37, 23, 12, (6, 5), 16, 10
# Weight decay strong enough to notice a parameter without it, and clipping that is active in every step.
TRAIN = config.Train(lr=2e-3, weight_decay=0.5, max_grad_norm=0.5, ema_decay=0.8)


def batches():
    """(text, image) of all ranks, for each step."""
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        yield rng.integers(0, WORDS, [BATCH, TEXT]), rng.integers(0, CODES, [BATCH, GRID[0] * GRID[1]])


def losses(text, image, directions, model):
    for direction in directions:
        yield direction, summed_nll(model(direction, text, image), *targets(direction, text, image, WORDS))


def counting(sent: Counter) -> None:
    """Count the elements that each kind of collective sends: {(kind, members of the group): elements}."""

    def counted(kind, real):
        def call(tensor, *arguments, **options):
            group = options.get("group")
            sent[f"{kind} {group.nranks if group else dist.get_world_size()}"] += tensor.size
            return real(tensor, *arguments, **options)

        return call

    for kind in ("all_reduce", "reduce", "broadcast"):
        setattr(dist, kind, counted(kind, getattr(dist, kind)))
    gather = group_sharded_stage3._all_gather

    def counted_gather(tensor, buffer_size, group):
        sent[f"all_gather {group.nranks}"] += buffer_size
        return gather(tensor, buffer_size, group)

    group_sharded_stage3._all_gather = counted_gather


def counting_host(copied: Counter) -> None:
    """Count the elements that stage 3 copies: {"to host" or "to device": elements}. Here both are the same memory, but
    the calls are those of a GPU.
    """
    to_host, to_device = group_sharded_stage3._device2cpu, group_sharded_stage3._cpu2device

    def counted_to_host(tensor, convert_dtype=False):
        copied["to host"] += tensor.size
        return to_host(tensor, convert_dtype)

    def counted_to_device(parameter):
        copied["to device"] += parameter.fw_storage.size
        return to_device(parameter)

    group_sharded_stage3._device2cpu, group_sharded_stage3._cpu2device = counted_to_host, counted_to_device


def stored(tensors) -> int:
    """Their bytes."""
    present = [tensor for tensor in tensors if tensor is not None and tensor._is_initialized()]
    return sum(tensor.size * tensor.element_size() for tensor in present)


def held(engine, model) -> dict[str, int]:
    """Bytes that this rank stores between the last backward pass and the update, including padding."""
    parameters, stage = list(model.parameters()), engine.stage
    buffers = [
        storage.buffer
        for of_type in getattr(stage.optimizer, "param_storages", {}).values()
        for storage in of_type.values()
    ]
    whole = [
        storage.buffer
        for storage in getattr(stage.model, "_grad_storages", {}).values()
        if isinstance(storage, GradStorage)
    ]
    with_own = [one for one in parameters if one._is_initialized() and not (whole and gradient(one) is not None)]
    masters = [
        *engine._optimizer._master_weights.values(),
        *(getattr(one, "master_weight", None) for one in parameters),
    ]
    return {
        "parameters": stored([*(buffers or parameters), *(getattr(one, "fw_storage", None) for one in parameters)]),
        "masters": stored(masters),
        "gradients": stored(
            [*whole, *(gradient(one) for one in with_own), *(getattr(one, "bw_storage", None) for one in parameters)]
        ),
        "moments": stored(value for name, value in engine._optimizer.state_dict().items() if "_moment" in name),
    }


def check_masters(engine) -> None:
    """Parameters in 16 bits are rounded fp32 masters."""
    for one in engine._sharded_parameters():
        if engine.precision.is_half and one.trained and engine.world.rank in one.holders:
            master, rounded = one.tensors
            assert master.dtype == paddle.float32 and rounded.dtype != paddle.float32
            assert bool((master.astype(rounded.dtype).flatten() == rounded.flatten()).all()), one.name


def overflowing_step(engine, world, factors, directions, share) -> dict:
    """A step in which the gradient of rank 1 exceeds fp16: {"scale": its change, "updated": whether anything was}."""
    text, image = next(batches())
    rows = slice(world.rank * share, (world.rank + 1) * share)
    mine = partial(losses, paddle.to_tensor(text[rows]), paddle.to_tensor(image[rows]), directions)
    scale, before = engine.loss_scale["scale"][0], [np.array(one.read()) for one in engine.state()]
    larger = 2.0**40 if world.rank == 1 else 1.0
    engine.micro_step(mine, {name: factor * larger for name, factor in factors.items()})
    engine.step(TRAIN.lr)
    after = [np.array(one.read()) for one in engine.state()]
    updated = not all(np.array_equal(one, two) for one, two in zip(before, after, strict=True))
    return {"scale": engine.loss_scale["scale"][0] / scale, "updated": updated}


@paddle.no_grad()
def measured(engine, model, text, image, directions):
    """(direction, its summed loss over the whole batch), measured like held-out data."""
    model.eval()
    values = losses(paddle.to_tensor(text), paddle.to_tensor(image), directions, engine.stage.model)
    found = [(name, float(value)) for name, value in values]
    model.train()
    return found


def main(
    out: Path,
    settings: config.Distributed,
    accumulation: int,
    directions: list[str],
    resume: Path | None,
    steps: int,
    overflow: bool,
) -> None:
    world, sent, copied = World(settings), Counter(), Counter()
    paddle.seed(3)
    model = Transformer(config.Model(layers=4, hidden=64, heads=2, conv_kernel=3), WORDS, CODES, TEXT, GRID)
    model.train_only(directions)
    total = stored(model.parameters())
    engine = Engine(world, model, partial(adamw, TRAIN), TRAIN.max_grad_norm, settings, TRAIN.ema_decay)
    begin = 0
    if resume:
        reader = checkpoint.CheckpointReader(resume)
        engine.load_state(reader.shapes, reader.range)
        begin = reader.manifest.step
    counting(sent)
    counting_host(copied)
    counts = {DIRECTIONS[0]: BATCH * GRID[0] * GRID[1], DIRECTIONS[1]: BATCH * (TEXT - 1)}
    factors = {name: world.ranks / counts[name] for name in directions}
    share = BATCH // world.ranks // accumulation
    lines, group_norms, overflown = [], [], overflow and overflowing_step(engine, world, factors, directions, share)
    for text, image in list(batches())[begin:steps]:
        sums = dict.fromkeys(DIRECTIONS, 0.0)
        sent.clear()
        copied.clear()
        for micro in range(accumulation):
            rows = slice((micro * world.ranks + world.rank) * share, (micro * world.ranks + world.rank + 1) * share)
            mine = partial(losses, paddle.to_tensor(text[rows]), paddle.to_tensor(image[rows]), directions)
            for name, value in engine.micro_step(mine, factors).items():
                sums[name] += value / counts[name]
        while_computing = sum(sent.values())
        last = held(engine, model)
        norm = engine.step(TRAIN.lr)
        check_masters(engine)
        group_norms.append(engine.group_norms)
        in_a_step, on_the_bus = dict(sent), dict(copied)
        others = [name for name in DIRECTIONS if name not in directions]
        for name, value in measured(engine, model, text, image, others):
            sums[name] = value / counts[name] / world.ranks
        lines.append([*(world.sum(sums)[name] for name in DIRECTIONS), norm])
    with engine.averaged_weights():
        averaged = dict(measured(engine, model, text, image, DIRECTIONS))
    checkpoint.CheckpointManager(out, world, config.Checkpoint(asynchronous=False)).save(
        engine.state(), checkpoint.CheckpointInfo(steps, 0, {})
    )
    out.joinpath(f"rank-{world.rank}.json").write_text(
        json.dumps(
            {
                "lines": lines,
                "group_norms": group_norms,
                "overflow": overflown,
                "reduction_seconds": engine.reduction_seconds,
                "total": total,
                "held": last,
                "averaged": averaged,
                "averages": engine.average.elements,
                "while_computing": while_computing,
                "sent": in_a_step,
                "copied": on_the_bus,
                "shapes": {name: one.shape for name, one in model.named_parameters() if not one.stop_gradient},
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", type=lambda text: config.Distributed(**json.loads(text)))
    parser.add_argument("accumulation", type=int)
    parser.add_argument("--direction", dest="directions", action="append")
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--overflow", action="store_true")
    options = parser.parse_args()
    main(**(vars(options) | {"directions": options.directions or list(DIRECTIONS)}))
    exit_process(0)
