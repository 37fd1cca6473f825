"""The linear layer with the fast bias gradient gives the results of `nn.Linear`."""

import numpy as np
import paddle
import pytest
from paddle import nn

from vilg.model.linear import Linear


@pytest.mark.parametrize("shape", [[7, 5], [2, 3, 5], [1, 1, 5]])
def test_forward_and_gradients_equal_the_plain_layer(shape):
    paddle.seed(0)
    ours, plain = Linear(5, 4), nn.Linear(5, 4)
    plain.set_state_dict(ours.state_dict())
    ours.bias.set_value(paddle.randn([4]))
    plain.bias.set_value(ours.bias)
    results = []
    for layer in (ours, plain):
        x = paddle.to_tensor(np.random.default_rng(0).normal(size=shape).astype("float32"), stop_gradient=False)
        y = layer(x)
        (y * paddle.to_tensor(np.random.default_rng(1).normal(size=y.shape).astype("float32"))).sum().backward()
        results.append([y, x.grad, layer.weight.grad, layer.bias.grad])
    for one, two in zip(*results):
        assert np.allclose(one.numpy(), two.numpy(), atol=1e-5)


def test_output_is_the_same_without_gradients():
    layer, x = Linear(5, 4), paddle.randn([3, 5])
    with paddle.no_grad():
        quiet = layer(x).numpy()
    assert np.array_equal(quiet, layer(x).numpy())
