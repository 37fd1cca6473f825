"""The whole model gives the same results with the operator, with block-wise attention and with dense attention."""

import numpy as np
import paddle
import pytest

from vilg import config
from vilg.attention.patterns import DIRECTIONS
from vilg.model.loss import summed_nll
from vilg.model.transformer import Transformer, targets
from vilg.text.sequence import padding
from vilg.training.optimizer import adamw
from vilg.training.schedules import learning_rate

WORDS, CODES, T, GRID = 300, 128, 20, (8, 8)  # the emoji run's sequence


def build(backend, layers=4, hidden=128, heads=2):
    paddle.seed(0)
    return Transformer(
        config.Model(layers=layers, hidden=hidden, heads=heads), WORDS, CODES, T, GRID, config.Attention(backend)
    )


def pairs(seed, count=4):
    rng = np.random.default_rng(seed)
    text = rng.integers(5, WORDS, [count, T])
    for row, length in enumerate(rng.integers(4, T - 1, count)):
        text[row, length:] = padding(WORDS, T)[length:]
    return paddle.to_tensor(text), paddle.to_tensor(rng.integers(0, CODES, [count, GRID[0] * GRID[1]]))


def loss_of(model, direction, text, image):
    ids, counted = targets(direction, text, image, WORDS)
    return summed_nll(model(direction, text, image), ids, counted) / float(counted.sum())


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("backend", ["operator", "blockwise"])
def test_losses_and_gradients_match_dense_attention(direction, backend):
    results = []
    for chosen in (backend, "dense"):
        model = build(chosen)
        for parameter in model.parameters():
            if parameter.ndim > 1:  # larger than at initialization, so that attention matters
                parameter.set_value(parameter * 4)
        loss = loss_of(model, direction, *pairs(0))
        loss.backward()
        gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        results.append((float(loss), gradients))
    (ours, gradients), (dense, exact) = results
    assert abs(ours - dense) < 1e-5 * dense
    assert gradients.keys() == exact.keys() and len(exact) > 40
    for name, value in exact.items():
        assert np.abs(gradients[name] - value).max() < 1e-4 * max(np.abs(value).max(), 1e-3), name


def curve(backend, steps):
    model = build(backend, hidden=256, heads=4)
    settings = config.Train(lr=0.001, warmup=100)
    optimizer = adamw(settings, model)
    losses = []
    for step in range(steps):
        optimizer.set_lr(learning_rate(settings, step + 1))
        text, image = pairs(step % 5)
        total = 0.0
        for direction in DIRECTIONS:
            loss = loss_of(model, direction, text, image)
            loss.backward()
            total += float(loss)
        optimizer.step()
        optimizer.clear_grad()
        losses.append(total)
    return np.array(losses)


def test_loss_curves_of_operator_and_dense_match_over_fifty_steps():
    """4 layers of width 256 with 4 heads, the warm-up of the emoji run, and 20 pairs that are repeated."""
    dense, operator = curve("dense", 50), curve("operator", 50)
    assert np.abs(dense - operator).max() < 1e-4
    assert operator[-1] < operator[0] - 1
