"""The common properties of all kinds of image tokenizers."""

import numpy as np
import paddle
import pytest

from vilg import config
from vilg.image.dvae import DVAE
from vilg.image.vqgan import VQGAN
from vilg.image.vqvae import VQVAE

SIZES = {"residual_blocks": 1, "codebook_size": 16, "code_dim": 8}
KINDS = {
    "vqvae": lambda: VQVAE(config.VQVAE(downsamplings=2, base_channels=32, **SIZES)),
    "vqgan": lambda: VQGAN(
        config.VQGAN(base_channels=32, channel_multipliers=[1, 2], attention_factors=[2], latent_channels=12, **SIZES)
    ),
    "dvae": lambda: DVAE(config.DVAE(downsamplings=2, base_channels=8, **SIZES)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_in_fp32_inside_a_model_in_16_bits(kind):
    """Autocast has no effect on a CPU, but the level at which the layers run can be observed."""
    model = KINDS[kind]()
    images = paddle.to_tensor(np.random.default_rng(0).random([3, 3, 16, 16], dtype=np.float32))
    tracer, levels = paddle.base.framework._dygraph_tracer(), []
    for part in (model.encoder, model.decoder):
        part.register_forward_pre_hook(lambda part, given: levels.append((tracer._amp_level, given[0].dtype)))
    before = tracer._amp_level
    tracer._amp_level = paddle.base.core.AmpLevel.O2
    try:
        codes = model.encode(images)
        z_emb = model.embed(codes)
        model.decode(codes)
        model.decode_embeddings(z_emb.astype("bfloat16"))
        assert tracer._amp_level == paddle.base.core.AmpLevel.O2
    finally:
        tracer._amp_level = before
    assert levels == [(paddle.base.core.AmpLevel.O0, paddle.float32)] * 3
