"""The sizes of the published GumbelVQ f8 and of DALL-E's dVAE, which are the defaults, with one image of 256 x 256."""

import paddle
import pytest
from paddle.base import core

from vilg import config, image
from vilg.errors import UserError

SMALL = {
    "vqvae": config.VQVAE(2, 32, 1, 16, 8),
    "vqgan": config.VQGAN("nearest", 32, [1, 1, 1], 1, [], 16, 16, 8),
    "dvae": config.DVAE(2, 16, 1, 16, 8),
}


@pytest.mark.parametrize("kind, millions", [("vqgan", 69.0), ("dvae", 97.6)])
def test_shape_and_memory(kind, millions):
    made, settings = image.KINDS[kind]
    paddle.seed(0)
    before = core.host_memory_stat_current_value("Allocated", 0)
    tokenizer = made(settings())
    tokenizer.eval()
    assert abs(sum(each.size for each in tokenizer.parameters()) / 1e6 - millions) < 0.05
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    with paddle.no_grad():
        indices = tokenizer.encode(paddle.rand([1, 3, 256, 256]))
        drawn = tokenizer.decode(indices)
    assert indices.shape == [1, 32, 32] and int(indices.max()) < tokenizer.codebook_size == 8192
    assert drawn.shape == [1, 3, 256, 256]
    assert core.host_memory_stat_peak_value("Allocated", 0) - before < 1.2 * 2**30


@pytest.mark.parametrize("kind", image.KINDS)
@pytest.mark.parametrize("height, width", [(6, 8), (8, 7)])
def test_a_side_that_the_factor_does_not_divide_is_one_line(kind, height, width):
    tokenizer = image.KINDS[kind][0](SMALL[kind])
    with pytest.raises(UserError, match=f"{height} x {width} pixels: this {kind} needs multiples of 4"):
        tokenizer.encode(paddle.rand([1, 3, height, width]))
