"""Scaling of the gradients of token embeddings."""

import numpy as np
import paddle
import pytest

from vilg import config
from vilg.attention.patterns import DIRECTIONS
from vilg.errors import SettingsError
from vilg.model.embeddings import scale_gradient
from vilg.model.loss import summed_nll
from vilg.model.transformer import Transformer, targets


def test_the_value_is_unchanged_and_the_gradient_is_that_of_the_definition():
    """GLM-130B: x = x alpha + stop_gradient(x) (1 - alpha)."""
    gradients = []
    for form in (lambda x: scale_gradient(x, 0.1), lambda x: 0.1 * x + 0.9 * x.detach()):
        x = paddle.to_tensor([[0.1, -2.0, 3e4]], stop_gradient=False)
        scaled = form(x)
        assert np.allclose(scaled.numpy(), x.numpy())
        (scaled * paddle.to_tensor([1.0, 2.0, 3.0])).sum().backward()
        gradients.append(x.grad.numpy())
    assert np.array_equal(scale_gradient(x, 0.1).numpy(), x.numpy())
    assert np.allclose(*gradients) and np.allclose(gradients[0], [[0.1, 0.2, 0.3]])


def test_only_token_embeddings_are_scaled():
    gradients, losses = [], []
    for scale in (1.0, 0.1):
        paddle.seed(0)
        settings = config.Model(layers=2, hidden=32, heads=2, conv_kernel=3, embedding_gradient_scale=scale)
        model = Transformer(settings, 40, 24, 8, (3, 3))
        rng = np.random.default_rng(1)
        text, image = paddle.to_tensor(rng.integers(0, 40, [2, 8])), paddle.to_tensor(rng.integers(0, 24, [2, 9]))
        for direction in DIRECTIONS:
            loss = summed_nll(model(direction, text, image), *targets(direction, text, image, 40))
            loss.backward()
            losses.append(float(loss))
        gradients.append({name: value.grad.numpy() for name, value in model.named_parameters()})
    assert losses[:2] == losses[2:]
    for name, gradient in gradients[0].items():
        factor = 0.1 if name in ("embed_text.words.weight", "embed_image.codes.weight") else 1.0
        assert np.allclose(gradients[1][name], factor * gradient, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("scale", ["0", "1.5"])
def test_a_scale_outside_of_0_to_1_is_refused(scale):
    with pytest.raises(SettingsError, match="model.embedding_gradient_scale=.*: must be in"):
        config.resolve(config.Pretraining, None, [f"model.embedding_gradient_scale={scale}"])
