"""The states of parameters in 16 bits: the names of masters and moments, saved and loaded without a training step."""

import numpy as np
import paddle
from paddle import nn

from vilg import config
from vilg.distributed import states
from vilg.distributed.stages import DataParallel
from vilg.distributed.world import World
from vilg.training.optimizer import adamw


def is_half(seed):
    """(model in bf16, its AdamW, its sharded parameters). Parameter names do not depend on models created before."""
    paddle.seed(seed)
    with paddle.utils.unique_name.guard():
        model = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5))
    for parameter in model.parameters():
        parameter.set_value(paddle.randn(parameter.shape))
    model.to(dtype="bfloat16")
    optimizer = adamw(config.Train(), model)
    optimizer._multi_precision = True
    stage = DataParallel(World(), model, optimizer, 0.0, None)
    return model, optimizer, lambda: [stage.sharded_parameter(name, value) for name, value in model.named_parameters()]


def begin(model, optimizer):
    """Create the optimizer states as the first step does."""
    optimizer._create_accumulators(paddle.static.default_main_program().global_block(), list(model.parameters()))


def test_master_weights_and_moments_are_stored_under_the_names_of_the_model():
    model, optimizer, held = is_half(1)
    begin(model, optimizer)
    for of_kind in optimizer._accumulators.values():
        for value in of_kind.values():
            value.set_value(paddle.randn(value.shape).astype(value.dtype))
    for master in optimizer._master_weights.values():
        master.set_value(master + 1e-4)  # less than the precision of bf16
    saved = {part.name: np.array(part.read()) for part in states.tensor_shards(held(), optimizer, 0)}
    assert set(saved) == {
        f"{kind}/{name}" for kind in ("model", *states.MOMENTS) for name, _ in model.named_parameters()
    }
    masters = {name: optimizer._master_weights[value.name].numpy() for name, value in model.named_parameters()}
    assert all(np.array_equal(saved[f"model/{name}"], value.ravel()) for name, value in masters.items())

    again, other, held = is_half(2)
    states.load(held(), other, 0, lambda name, start, stop: saved[name][start:stop])
    begin(again, other)
    loaded = {part.name: np.array(part.read()) for part in states.tensor_shards(held(), other, 0)}
    assert all(np.array_equal(loaded[name], value) for name, value in saved.items())
    for (_, one), (_, two) in zip(model.named_parameters(), again.named_parameters()):
        rounded = optimizer._master_weights[one.name].astype("bfloat16")
        assert two.dtype == paddle.bfloat16 and bool((two == rounded).all())
