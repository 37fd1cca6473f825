"""AdamW, its decay and its learning rate, against numpy."""

import math

import numpy as np
import paddle
import pytest
from paddle import nn

from vilg import config
from vilg.distributed.engine import Engine
from vilg.distributed.world import World
from vilg.training.optimizer import adamw, learning_rate
from vilg.training.seed import step_seed

SETTINGS = config.Train(steps=100, lr=0.5, warmup=10, final_lr=0.2)


def test_warm_up_is_a_line_and_then_a_cosine():
    assert [learning_rate(SETTINGS, step) for step in (1, 5, 10)] == [0.05, 0.25, 0.5]
    assert math.isclose(learning_rate(SETTINGS, 55), 0.5 * (0.2 + 0.8 * 0.5))
    assert math.isclose(learning_rate(SETTINGS, 100), 0.1)
    assert learning_rate(config.Train(steps=5, lr=0.5, warmup=0), 1) <= 0.5


def test_matrices_decay_and_vectors_do_not():
    paddle.seed(0)
    layer = nn.Linear(3, 2)
    layer.bias.set_value(paddle.ones([2]))
    weight, bias = layer.weight.numpy(), layer.bias.numpy()
    settings = config.Train(lr=0.1, weight_decay=0.5)
    optimizer = adamw(settings, layer)
    (layer(paddle.zeros([1, 3])).sum() * 0.0).backward()
    optimizer.step()
    assert np.allclose(layer.weight.numpy(), weight * (1 - 0.1 * 0.5), atol=1e-6)
    assert np.allclose(layer.bias.numpy(), bias, atol=1e-6)


@pytest.mark.parametrize("clip, scale", [(1.0, True), (1e6, False), (0.0, False)])
def test_the_global_norm_and_its_clipping(clip, scale):
    layer = nn.Linear(3, 2)
    engine = Engine(World(), layer, adamw(SETTINGS, layer), clip)
    (layer(paddle.to_tensor([[1.0, 2.0, 3.0]])) * 5).sum().backward()
    gradients = np.concatenate([layer.weight.grad.numpy().ravel(), layer.bias.grad.numpy()])
    norm = engine.gradient_norm()
    assert np.isclose(norm, np.linalg.norm(gradients))
    after = np.concatenate([layer.weight.grad.numpy().ravel(), layer.bias.grad.numpy()])
    assert np.allclose(after, gradients / norm if scale else gradients, rtol=1e-5)


def test_a_gradient_that_is_not_finite_is_a_norm_that_is_not_finite():
    layer = nn.Linear(3, 2)
    engine = Engine(World(), layer, adamw(SETTINGS, layer), 1.0)
    (layer(paddle.to_tensor([[1.0, float("nan"), 3.0]]))).sum().backward()
    assert not math.isfinite(engine.gradient_norm())


def test_seeds_differ_by_run_step_and_rank():
    seeds = {step_seed(run, step, rank) for run in range(4) for step in range(50) for rank in range(4)}
    assert len(seeds) == 800
