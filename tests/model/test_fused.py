"""LayerNorm and GELU of the model give the results of Paddle's own, with and without the compiled library."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from vilg.attention import operator
from vilg.model import fused


@pytest.fixture
def graph_nodes(monkeypatch):
    """The names of the compiled operators that were called."""
    asked = []
    run = fused._C_ops._run_custom_op
    monkeypatch.setattr(fused._C_ops, "_run_custom_op", lambda name, *rest: asked.append(name) or run(name, *rest))
    return asked


def gradients(call, x, *parameters):
    y = call(x)
    weights = paddle.to_tensor(np.random.default_rng(1).normal(size=y.shape).astype("float32"))
    return [y, *paddle.grad((y * weights).sum(), [x, *parameters])]


def some(*shape):
    return paddle.to_tensor(np.random.default_rng(0).normal(size=shape).astype("float32"), stop_gradient=False)


@pytest.mark.parametrize("width, compiled", [(64, True), (20, False)])
def test_layer_norm_and_its_gradients_match_paddle(width, compiled, graph_nodes):
    ours, plain = fused.LayerNorm(width), nn.LayerNorm(width)
    for layer in (ours, plain):
        layer.weight.set_value(paddle.to_tensor(np.linspace(0.5, 2, width, dtype="float32")))
        layer.bias.set_value(paddle.to_tensor(np.linspace(-1, 1, width, dtype="float32")))
    x = some(3, 5, width)
    for one, two in zip(gradients(ours, x, ours.weight, ours.bias), gradients(plain, x, plain.weight, plain.bias)):
        assert one.shape == two.shape and np.allclose(one.numpy(), two.numpy(), atol=2e-5)
    assert graph_nodes == (["vilg_layer_norm"] if compiled and operator.load() is None else [])


def test_gelu_and_its_gradient_match_paddle(graph_nodes):
    x = some(3, 7, 11)
    for one, two in zip(gradients(fused.gelu, x), gradients(lambda x: F.gelu(x, approximate=True), x)):
        assert one.shape == two.shape and np.allclose(one.numpy(), two.numpy(), atol=2e-6)
    assert graph_nodes == (["vilg_gelu"] if operator.load() is None else [])


def test_paddle_computes_without_the_library_or_without_gradients(monkeypatch, graph_nodes):
    layer, x = fused.LayerNorm(32), some(4, 32)
    with paddle.no_grad():
        layer(x), fused.gelu(x)
    monkeypatch.setattr(operator, "load", lambda: "there is no compiler")
    layer(x), fused.gelu(x)
    assert graph_nodes == []


def test_gelu_reads_a_transposed_view_correctly():
    x = some(6, 4, 32)
    turned = x.transpose([1, 0, 2])
    assert np.allclose(fused.gelu(turned).numpy(), fused.gelu(x).numpy().transpose(1, 0, 2))
