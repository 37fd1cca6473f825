"""AdamW, its weight decay and its learning rate, against numpy."""

import math
from dataclasses import replace

import numpy as np
import paddle
import pytest
from paddle import nn

from vilg import config
from vilg.distributed.engine import Engine
from vilg.distributed.world import World
from vilg.image.vqvae import VQVAE
from vilg.model.transformer import Transformer
from vilg.training.optimizer import adamw, decayed_names
from vilg.training.schedules import learning_rate
from vilg.training.seed import step_seed

SETTINGS = config.Train(steps=100, lr=0.5, warmup=10, min_lr_ratio=0.2)


def test_the_schedule_is_linear_warmup_then_cosine():
    assert [learning_rate(SETTINGS, step) for step in (1, 5, 10)] == [0.05, 0.25, 0.5]
    assert math.isclose(learning_rate(SETTINGS, 55), 0.5 * (0.2 + 0.8 * 0.5))
    assert math.isclose(learning_rate(SETTINGS, 100), 0.1)
    assert learning_rate(config.Train(steps=5, lr=0.5, warmup=0), 1) <= 0.5


SCHEDULES = {
    # after a warmup of 10 steps to 0.5, the learning rates of steps 10, 11, 55, 99 and 100
    "linear": [0.5, 0.5 * (0.2 + 0.8 * 89 / 90), 0.3, 0.5 * (0.2 + 0.8 / 90), 0.1],
    "constant": [0.5, 0.5, 0.5, 0.5, 0.5],
    "wsd": [0.5, 0.5, 0.5, 0.5 * (0.2 + 0.8 / 40), 0.1],
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_other_schedules_follow_the_same_warmup(schedule):
    settings = replace(SETTINGS, schedule=schedule, decay_steps=40 if schedule == "wsd" else 0)
    assert [learning_rate(settings, step) for step in (1, 5)] == [0.05, 0.25]
    assert [learning_rate(settings, step) for step in (10, 11, 55, 99, 100)] == pytest.approx(SCHEDULES[schedule])


def test_the_decay_of_wsd_begins_after_the_stable_phase():
    settings = replace(SETTINGS, schedule="wsd", decay_steps=40)
    assert [learning_rate(settings, step) for step in (60, 61)] == pytest.approx([0.5, 0.5 * (0.2 + 0.8 * 39 / 40)])
    decay_only = replace(SETTINGS, schedule="wsd", warmup=0, decay_steps=100)
    assert learning_rate(decay_only, 50) == pytest.approx(0.3)
    no_stable_phase = replace(SETTINGS, schedule="wsd", decay_steps=90)
    assert learning_rate(no_stable_phase, 10) == 0.5 and learning_rate(no_stable_phase, 55) == pytest.approx(0.3)


def test_every_schedule_has_a_value_when_the_warmup_is_the_whole_run():
    for schedule in ("cosine", "linear", "constant"):
        assert learning_rate(config.Train(steps=5, warmup=5, lr=0.5, schedule=schedule), 5) == 0.5


def test_weight_decay_does_not_apply_to_biases():
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


@pytest.mark.parametrize("embeddings", [False, True])
def test_which_parameters_of_the_transformer_are_decayed(embeddings):
    """Weights of linear layers, as in minGPT and GPT-NeoX; with train.decay_embeddings also every table."""
    model = Transformer(config.Model(layers=1, hidden=16, heads=2, conv_kernel=3, qk_norm=True), 11, 7, 8, (4, 4))
    decayed = decayed_names(model, embeddings)
    names = {name for name, value in model.named_parameters() if value.name in decayed}
    linear = {"blocks.0.attention.qkv", "blocks.0.attention.out", "blocks.0.mlp.widen", "blocks.0.mlp.out"}
    linear |= {"text_head", "image_head"}
    tables = {"embed_text.words.weight", "embed_text.positions", "embed_image.codes.weight"}
    tables |= {"embed_image.rows", "embed_image.columns"}
    assert names == {f"{layer}.weight" for layer in linear} | (tables if embeddings else set())


def test_weights_of_convolutions_are_decayed_and_codebooks_are_not():
    model = VQVAE(config.VQVAE(base_channels=32, codebook_size=8, code_dim=4))
    decayed = decayed_names(model, False)
    names = {name for name, value in model.named_parameters() if value.name in decayed}
    assert names == {name for name, value in model.named_parameters() if value.ndim == 4}


def test_epsilon_of_adam():
    """The first step of Adam is lr g / (|g| + epsilon)."""
    for epsilon in (1e-8, 3.0):
        layer = nn.Linear(3, 2)
        before = layer.weight.numpy()
        optimizer = adamw(config.Train(adam_epsilon=epsilon, weight_decay=0.0, lr=0.1), layer)
        layer(paddle.to_tensor([[1.0, 2.0, 3.0]])).sum().backward()
        optimizer.step()
        gradient = np.array([[1.0], [2.0], [3.0]])
        assert np.allclose(before - layer.weight.numpy(), 0.1 * gradient / (gradient + epsilon), atol=1e-6)


class PlainSGD(paddle.optimizer.SGD):
    """W - lr G, which shows the clipped gradient in the parameters."""

    def __init__(self, layer):
        super().__init__(1.0, layer.parameters())
        self._master_weights = {}


def flat(layer):
    return np.concatenate([layer.weight.numpy().ravel(), layer.bias.numpy()])


@pytest.mark.parametrize("clip, scale", [(1.0, True), (1e6, False), (0.0, False)])
def test_clipping_by_global_norm(clip, scale):
    layer = nn.Linear(3, 2)
    engine = Engine(World(), layer, PlainSGD, clip)
    engine.micro_step(lambda model: [("x", model(paddle.to_tensor([[1.0, 2.0, 3.0]])).sum())], {"x": 5.0})
    gradient = 5 * np.array([1, 1, 2, 2, 3, 3, 1, 1], dtype="float32")
    before, norm = flat(layer), engine.step(1.0)
    assert np.isclose(norm, np.linalg.norm(gradient))
    assert np.allclose(before - flat(layer), gradient / norm if scale else gradient, rtol=1e-5)


def test_micro_steps_accumulate_gradients_and_a_step_clears_them():
    layer = nn.Linear(3, 2)
    engine = Engine(World(), layer, PlainSGD, 0)
    for _ in range(2):
        before = flat(layer)
        for factor in (1.0, 2.0):
            values = engine.micro_step(lambda model: [("x", model(paddle.ones([1, 3])).sum())], {"x": factor})
        engine.step(1.0)
        assert np.allclose(before - flat(layer), 3.0)
    assert set(values) == {"x"}


def test_a_non_finite_gradient_gives_a_non_finite_norm():
    layer = nn.Linear(3, 2)
    engine = Engine(World(), layer, PlainSGD, 1.0)
    engine.micro_step(lambda model: [("x", model(paddle.to_tensor([[1.0, float("nan"), 3.0]])).sum())], {"x": 1.0})
    assert not math.isfinite(engine.step(1.0)) and not engine.may_overflow


def test_seeds_differ_by_run_step_and_rank():
    seeds = {step_seed(run, step, rank) for run in range(4) for step in range(50) for rank in range(4)}
    assert len(seeds) == 800
