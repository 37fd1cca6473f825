"""VQGAN: its parts against numpy, both quantizers, every size that the factor divides, and its settings."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from vilg import config, image
from vilg.errors import SettingsError
from vilg.image.gumbel import GumbelCode
from vilg.image.layers import Convolution, NearestUpsample
from vilg.image.vqgan import VQGAN, AttentionBlock, Downsample, ResidualBlock

SIZES = dict(
    base_channels=32,
    channel_multipliers=[1, 2],
    residual_blocks=1,
    attention_factors=[2],
    latent_channels=12,
    codebook_size=16,
    code_dim=8,
)


def pictures(*shape):
    return paddle.to_tensor(np.random.default_rng(0).random(shape, dtype=np.float32))


@pytest.fixture(params=["gumbel", "nearest"])
def model(request):
    paddle.seed(0)
    made = VQGAN(config.VQGAN(quantizer=request.param, **SIZES))
    made.eval()
    return made


@pytest.mark.parametrize("height, width", [(8, 8), (2, 2), (6, 14), (32, 10)])
def test_every_size_that_the_factor_divides(model, height, width):
    indices = model.encode(pictures(2, 3, height, width))
    assert indices.shape == [2, height // 2, width // 2] and indices.dtype == paddle.int64
    assert int(indices.min()) >= 0 and int(indices.max()) < model.codebook_size == 16
    assert model.embed(indices).shape == [2, height // 2, width // 2, 8]
    drawn = model.decode(indices)
    assert drawn.shape == [2, 3, height, width] and drawn.dtype == paddle.float32
    assert float(drawn.min()) >= 0 and float(drawn.max()) <= 1


def test_the_factor_follows_from_the_stages():
    assert VQGAN(config.VQGAN(**{**SIZES, "channel_multipliers": [1, 1, 1, 1], "attention_factors": []})).factor == 8
    assert VQGAN(config.VQGAN(**SIZES)).grid(32) == (16, 16)


def test_initial_weights_are_orthogonal_and_residual_blocks_start_at_zero(model):
    model.initialize_orthogonal()
    for name, layer in model.named_sublayers():
        if isinstance(layer, Convolution):
            weight = layer.weight.flatten(1).numpy()
            short = weight if weight.shape[0] <= weight.shape[1] else weight.T
            wanted = np.zeros(len(short)) if name.endswith("conv2") else np.ones(len(short))
            assert np.allclose(short @ short.T, np.diag(wanted), atol=1e-5), name
            assert not layer.bias.any(), name
        if isinstance(layer, ResidualBlock):
            x = paddle.randn([2, layer.conv1.weight.shape[1], 4, 4])
            assert np.array_equal(layer(x).numpy(), layer.nin_shortcut(x).numpy()), name


def test_images_do_not_depend_on_their_batch(model):
    images = pictures(3, 3, 8, 8)
    one = model.features(images[1:2]).numpy()
    assert np.allclose(model.features(images).numpy()[1:2], one, atol=1e-5)


def test_gradients_flow_through_the_decoder_to_z_emb(model):
    z_emb = paddle.randn([2, 4, 3, 8])
    z_emb.stop_gradient = False
    model.decode_embeddings(z_emb).sum().backward()
    assert z_emb.grad.shape == [2, 4, 3, 8] and z_emb.grad.abs().sum() > 0


def test_decode_unclipped_matches_decode_after_clipping(model):
    z_emb = model.embed(model.encode(pictures(1, 3, 8, 8))) * 100.0
    drawn = model.decode_raw(z_emb).numpy()
    assert abs(drawn).max() > 1
    assert np.allclose(model.decode_embeddings(z_emb).numpy(), np.clip(drawn / 2 + 0.5, 0, 1), atol=1e-6)


def test_save_and_load(model, tmp_path):
    model.save(tmp_path / "t")
    loaded = image.load(tmp_path / "t")
    assert loaded.kind == "vqgan" and loaded.settings == model.settings and not loaded.training
    assert loaded.fingerprint() == model.fingerprint()
    images = pictures(2, 3, 8, 8)
    assert np.array_equal(loaded.decode(loaded.encode(images)).numpy(), model.decode(model.encode(images)).numpy())


def test_gumbel_takes_the_most_likely_code():
    quantizer = GumbelCode(5, 3)
    features = paddle.randn([2, 4, 4, 3])
    logits = features.numpy() @ quantizer.proj.weight.numpy() + quantizer.proj.bias.numpy()
    assert np.allclose(quantizer.logits(features).numpy(), logits, atol=1e-5)
    assert np.array_equal(quantizer.nearest(features).numpy(), logits.argmax(-1))
    indices = paddle.to_tensor([[4, 0], [2, 2]])
    assert np.array_equal(quantizer.embed(indices).numpy(), quantizer.codebook.numpy()[indices.numpy()])


def test_attention_against_numpy():
    block = AttentionBlock(32, 32)
    x = paddle.randn([2, 32, 3, 5])
    h = block.norm(x).numpy().reshape(2, 32, 15)
    q, k, v, out = (
        (layer.weight.numpy()[:, :, 0, 0], layer.bias.numpy()[:, None])
        for layer in (block.q, block.k, block.v, block.proj_out)
    )
    q, k, v = (weight @ h + bias for weight, bias in (q, k, v))
    scores = np.exp(np.einsum("bci,bcj->bij", q, k) / 32**0.5)
    seen = np.einsum("bij,bcj->bci", scores / scores.sum(-1, keepdims=True), v)
    assert np.allclose(block(x).numpy(), x.numpy() + (out[0] @ seen + out[1]).reshape(2, 32, 3, 5), atol=1e-4)


def test_downsampling_pads_at_the_bottom_and_on_the_right():
    layer, x = Downsample(2), paddle.randn([1, 2, 6, 4])
    padded = F.pad(x, [0, 1, 0, 1])  # left, right, top, bottom
    wanted = F.conv2d(padded, layer.conv.weight, layer.conv.bias, stride=2)
    assert np.allclose(layer(x).numpy(), wanted.numpy(), atol=1e-6)


def test_doubling_is_nearest_interpolation_with_its_gradient():
    gradients = []
    for double in (NearestUpsample(), lambda x: F.interpolate(x, scale_factor=2, mode="nearest")):
        x = pictures(2, 3, 4, 5)
        x.stop_gradient = False
        doubled = double(x)
        (doubled * paddle.arange(doubled.size, dtype="float32").reshape(doubled.shape)).sum().backward()
        gradients.append((doubled.numpy(), x.grad.numpy()))
    assert all(np.array_equal(own, wanted) for own, wanted in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(quantizer="other"), "vqgan.quantizer=other: none of gumbel, nearest"),
        (dict(base_channels=48), "vqgan.base_channels=48"),
        (dict(base_channels=0), "vqgan.base_channels=0"),
        (dict(channel_multipliers=[1]), "vqgan.channel_multipliers"),
        (dict(channel_multipliers=[1, 0]), "vqgan.channel_multipliers"),
        (dict(attention_factors=[3]), "vqgan.attention_factors=.3.: the levels are 1, 2"),
        (dict(norm_groups=0), "vqgan.norm_groups=0"),
        (dict(norm_groups=6), "vqgan.base_channels=32.*norm_groups=6"),
        (dict(residual_blocks=0), "vqgan.residual_blocks=0"),
        (dict(latent_channels=0), "vqgan.latent_channels=0"),
        (dict(codebook_size=1), "vqgan.codebook_size=1"),
        (dict(code_dim=0), "vqgan.code_dim=0"),
    ],
)
def test_invalid_vqgan_settings(change, message):
    with pytest.raises(SettingsError, match=message):
        config.VQGAN(**{**SIZES, **change})
