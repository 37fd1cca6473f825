"""Decoding one token at a time with the caches equals the full forward pass."""

import numpy as np
import paddle
import pytest

from vilg import config
from vilg.attention import operator
from vilg.attention.patterns import DIRECTIONS, TEXT_TO_IMAGE
from vilg.generation.decoder import TransformerDecodingState
from vilg.model.transformer import Transformer

WORDS, CODES, T = 19, 13, 7


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "grid, kernel, extra", [((4, 4), 3, {}), ((3, 5), 5, {"qk_norm": True}), ((6, 2), 3, {"sandwich_norm": True})]
)
@pytest.mark.parametrize("kind, tolerance", [("float32", 2e-4), ("bfloat16", 0.1), ("float16", 0.02)])
def test_every_logit_equals_that_of_the_full_forward_pass(direction, grid, kernel, extra, kind, tolerance):
    if kind != "float32" and operator.why_no_half_kernels():
        pytest.skip(operator.why_no_half_kernels())
    paddle.seed(3)
    model = Transformer(config.Model(layers=6, hidden=32, heads=2, conv_kernel=kernel, **extra), WORDS, CODES, T, grid)
    for parameter in model.parameters():
        parameter.set_value(paddle.randn(parameter.shape) * 0.3)
    model.to(dtype=kind)
    model.eval()
    rng, samples = np.random.default_rng(0), 3
    text, image = rng.integers(0, WORDS, [2, T]), rng.integers(0, CODES, [2, grid[0] * grid[1]])
    drawing = direction == TEXT_TO_IMAGE
    source, target = (
        (text, rng.integers(0, CODES, [6, image.shape[1]])) if drawing else (image, rng.integers(0, WORDS, [6, T]))
    )
    sources = source.repeat(samples, axis=0)
    both = map(paddle.to_tensor, (sources, target) if drawing else (target, sources))
    with paddle.no_grad():
        expected = model(direction, *both).astype("float32").numpy()
    decoder = TransformerDecodingState(model, direction, source, samples)
    found = [decoder.first()] if drawing else []
    found += [decoder.step(target[:, place]) for place in range(target.shape[1] - 1)]
    found = np.stack(found, axis=1)
    assert found.shape == expected.shape and found.dtype == np.float32
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
