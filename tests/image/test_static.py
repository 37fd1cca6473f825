"""Every tokenizer becomes a static program, with any batch, that gives what it gives."""

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from vilg import config
from vilg.image.dvae import DVAE
from vilg.image.vqgan import VQGAN
from vilg.image.vqvae import VQVAE

MAKERS = {
    "vqvae": lambda: VQVAE(config.VQVAE(downsamplings=1, width=32, residual_blocks=1, codes=16, code_dim=8)),
    "vqgan": lambda: VQGAN(config.VQGAN(width=32, multipliers=[1, 2], residual_blocks=1, attention=[2], latent=12,
                                        codes=16, code_dim=8)),
    "dvae": lambda: DVAE(config.DVAE(downsamplings=1, width=8, residual_blocks=1, codes=16, code_dim=6)),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_static_programs_of_both_ways(kind):
    paddle.seed(0)
    model = MAKERS[kind]()
    model.eval()
    images = paddle.to_tensor(np.random.default_rng(0).random([3, 3, 8, 6], dtype=np.float32))
    codes = model.encode(images)
    encode = paddle.jit.to_static(model.encode, input_spec=[InputSpec([None, 3, 8, 6])], full_graph=True)
    decode = paddle.jit.to_static(model.decode, input_spec=[InputSpec([None, 4, 3], "int64")], full_graph=True)
    assert np.array_equal(encode(images).numpy(), codes.numpy())
    assert np.allclose(decode(codes).numpy(), model.decode(codes).numpy(), atol=1e-6)
