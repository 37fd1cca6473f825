"""The convolution equals Paddle's, with its gradients."""

import numpy as np
import paddle
import pytest
from paddle import nn

from vilg.image.layers import Convolution


@pytest.mark.parametrize(
    "inputs, outputs, kernel, stride, padding, size",
    [(3, 8, 3, 1, 1, (5, 7)), (4, 6, 1, 1, 0, (1, 1)), (4, 6, 4, 2, 1, (8, 6)), (2, 3, 7, 1, 3, (4, 4))],
)
@pytest.mark.parametrize("bias", [None, False])
def test_layers_equal_those_of_paddle(inputs, outputs, kernel, stride, padding, size, bias):
    plain = nn.Conv2D(inputs, outputs, kernel, stride, padding, bias_attr=bias)
    ours = Convolution(inputs, outputs, kernel, stride, padding, bias_attr=bias)
    ours.set_state_dict(plain.state_dict())
    if bias is None:
        for layer in (plain, ours):
            layer.bias.set_value(paddle.arange(outputs, dtype="float32"))
    images = paddle.randn([3, inputs, *size])
    results = []
    for layer in (plain, ours):
        x = images.clone()
        x.stop_gradient = False
        drawn = layer(x)
        (drawn * paddle.arange(drawn.size, dtype="float32").reshape(drawn.shape).sin()).sum().backward()
        results.append([drawn, x.grad, *(parameter.grad for parameter in layer.parameters())])
    assert (results[0][0] == results[1][0]).all()
    for expected, found in zip(*results, strict=True):
        assert np.allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)
