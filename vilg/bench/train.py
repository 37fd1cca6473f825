"""`vilg bench train`: training steps of a model of any size with each attention backend."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import prod

import paddle

from vilg import config
from vilg.attention.functional import choose_backend
from vilg.attention.patterns import DIRECTIONS
from vilg.bench.random_pairs import random_losses
from vilg.bench.timing import extra_bytes, matmul_rate, milliseconds
from vilg.distributed.engine import Engine
from vilg.distributed.precision import resolve_precision
from vilg.distributed.world import World
from vilg.model import flops
from vilg.plan.estimate import describe_model
from vilg.plan.input_sizes import PAPER
from vilg.training.optimizer import adamw

# The default model.
DEFAULTS = [
    "model.layers=8",
    "model.hidden=512",
    "model.heads=8",
    "text.length=64",
    "data.image_size=256",
    "train.micro_batch=2",
    "train.global_batch=2",
]
BACKENDS = ("operator", "blockwise", "dense")


def bench(settings: config.Pretraining, steps: int = 3) -> dict:
    """Returns {"matmul_gflops": .., "parameters": .., "tokens": .., "rows": [..]}, one row for each backend, and
    {"faster_than_fp32": ..} in 16 bits, for which there is one more row, of the first backend in fp32.

    A step has the parts of a training step: forward and backward of both directions for `train.micro_batch` random
    pairs, gradient norm, AdamW. `matmul_share` relates the operations of the step (the tiles that the operator
    computes, for all backends) to the time of a large fp32 product with as many operations.
    """
    model = describe_model(settings, PAPER)
    tokens = len(DIRECTIONS) * settings.train.micro_batch * (model.text_length + model.grid[0] * model.grid[1])
    work, rate = flops.training_step(model, settings.train.micro_batch), matmul_rate()
    precision = resolve_precision(settings.distributed, paddle.get_device(), World())
    rows = _rows(settings, BACKENDS, steps)
    result = {
        "matmul_gflops": rate,
        "parameters": sum(prod(p.shape) for p in model.parameters()),
        "tokens": tokens,
        "gflop_per_step": work / 1e9,
        "rows": rows,
    }
    if precision.is_half:
        in_fp32 = replace(settings, distributed=replace(settings.distributed, precision="fp32"))
        rows += _rows(in_fp32, BACKENDS[:1], steps)
        result["faster_than_fp32"] = rows[-1]["seconds"] / rows[0]["seconds"]
    for row in rows:
        row |= {"tokens_per_second": tokens / row["seconds"], "matmul_share": work / row["seconds"] / 1e9 / rate}
    return result


def _rows(settings: config.Pretraining, backends: Sequence[str], steps: int) -> list[dict]:
    paddle.seed(0)
    model = PAPER.model(settings)
    engine = Engine(World(), model, partial(adamw, settings.train), settings.train.max_grad_norm, settings.distributed)
    batch, length = settings.train.micro_batch, model.text_length + model.grid[0] * model.grid[1]
    losses = random_losses(model, batch)

    def step():
        engine.micro_step(losses, dict.fromkeys(DIRECTIONS, 1 / (batch * length)))
        engine.step(1e-6)

    rows = []
    for backend in backends:
        for block in model.blocks:
            block.attention.backend = choose_backend(backend, block.attention.head_size, paddle.get_device())
        seconds = milliseconds(step, steps) / 1e3
        name = engine.precision.name
        rows.append({"backend": backend, "precision": name, "seconds": seconds, "peak_bytes": extra_bytes(step)})
    return rows


def table(result: dict) -> str:
    """The result as text."""
    lines = [
        f"{result['parameters'] / 1e6:.1f} million parameters, {result['tokens']} tokens and "
        f"{result['gflop_per_step']:.0f} GFLOP a step, matmul {result['matmul_gflops']:.0f} GFLOP/s in fp32",
        f"{'backend':9} {'precision':9} {'s a step':>9} {'tokens/s':>9} {'of matmul':>9} {'peak MB':>8}",
    ]
    lines += [
        f"{row['backend']:9} {row['precision']:9} {row['seconds']:9.2f} {row['tokens_per_second']:9.0f} "
        f"{row['matmul_share']:9.2f} {row['peak_bytes'] / 1e6:8.0f}"
        for row in result["rows"]
    ]
    if "faster_than_fp32" in result:
        lines.append(f"{result['rows'][0]['precision']} is {result['faster_than_fp32']:.2f} times as fast as fp32")
    return "\n".join(lines)
