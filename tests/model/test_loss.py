"""The summed loss, compared with the formula in numpy."""

import numpy as np
import paddle
import pytest

from vilg import config
from vilg.attention.patterns import DIRECTIONS
from vilg.model.loss import summed_nll, summed_z_loss
from vilg.model.transformer import Transformer, targets
from vilg.text.sequence import padding


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_loss_of_both_directions_matches_numpy():
    paddle.seed(0)
    model = Transformer(config.Model(layers=2, hidden=16, heads=2, conv_kernel=3), 40, 24, 5, (2, 3))
    text = np.array([[2, 9, 3, 0, 0], [2, 3, 0, 0, 0]])
    text[0, 3:], text[1, 2:] = padding(40, 5)[3:], padding(40, 5)[2:]
    image = np.random.default_rng(1).integers(0, 24, [2, 6])
    total = {}
    for direction in DIRECTIONS:
        logits = model(direction, paddle.to_tensor(text), paddle.to_tensor(image))
        ids, counted = targets(direction, paddle.to_tensor(text), paddle.to_tensor(image), 40)
        total[direction] = (float(summed_nll(logits, ids, counted)), log_softmax(logits.numpy().astype("float64")))
    nll, log_p = total["text_to_image"]
    assert abs(nll + sum(log_p[b, k, image[b, k]] for b in range(2) for k in range(6))) < 1e-4
    nll, log_p = total["image_to_text"]
    words = [(0, 0, 9), (0, 1, 3), (1, 0, 3)]  # sample, position of the prediction, target; the last one is EOT
    assert abs(nll + sum(log_p[b, k, target] for b, k, target in words)) < 1e-4


@pytest.mark.parametrize("classes", [15, 16, 1024])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_logits_give_a_non_finite_loss(classes, value):
    logits = paddle.full([1, 2, classes], value)
    ids, counted = paddle.zeros([1, 2], "int64"), paddle.ones([1, 2], "bool")
    assert not np.isfinite(float(summed_nll(logits, ids, counted)))


def test_z_loss_and_its_gradient_against_numpy():
    rng = np.random.default_rng(0)
    values, counted = rng.normal(size=[2, 3, 5]).astype("float32") + 2, rng.random([2, 3]) > 0.3
    logits = paddle.to_tensor(values, stop_gradient=False)
    loss = summed_z_loss(logits, paddle.to_tensor(counted))
    log_z = np.log(np.exp(values.astype("float64")).sum(-1))
    assert np.isclose(float(loss), (log_z**2)[counted].sum(), rtol=1e-5)
    loss.backward()
    softmax = np.exp(values - log_z[..., None])
    assert np.allclose(logits.grad.numpy(), 2 * (log_z * counted)[..., None] * softmax, atol=1e-5)
