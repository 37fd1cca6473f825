"""dVAE: pixels, codes and their embeddings, every size that the factor divides, and its settings."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from vilg import config, image
from vilg.errors import SettingsError
from vilg.image.dvae import DVAE, map_pixels, unmap_pixels

SIZES = dict(downsamplings=2, base_channels=8, residual_blocks=2, codebook_size=16, code_dim=6)


def pictures(*shape):
    return paddle.to_tensor(np.random.default_rng(0).random(shape, dtype=np.float32))


@pytest.fixture
def model():
    paddle.seed(0)
    made = DVAE(config.DVAE(**SIZES))
    made.eval()
    return made


@pytest.mark.parametrize("height, width", [(8, 8), (4, 4), (12, 20), (32, 8)])
def test_every_size_that_the_factor_divides(model, height, width):
    indices = model.encode(pictures(2, 3, height, width))
    assert indices.shape == [2, height // 4, width // 4] and indices.dtype == paddle.int64
    assert int(indices.min()) >= 0 and int(indices.max()) < model.codebook_size == 16
    z_emb = model.embed(indices)
    assert z_emb.shape == [2, height // 4, width // 4, 6]
    assert model.statistics(z_emb).shape == [2, 6, height, width]
    drawn = model.decode(indices)
    assert drawn.shape == [2, 3, height, width] and drawn.dtype == paddle.float32
    assert float(drawn.min()) >= 0 and float(drawn.max()) <= 1


def test_codes_are_the_most_likely(model):
    images = pictures(2, 3, 8, 12)
    logits = model.logits(images)
    assert logits.shape == [2, 16, 2, 3]
    assert np.array_equal(model.encode(images).numpy(), logits.numpy().argmax(1))


def test_codes_can_be_the_nearest_to_the_mixture(model):
    """The logits become -|mixture - code|^2 / spread, up to a constant for each position."""
    images, codes = pictures(2, 3, 12, 8), paddle.randn([16, 6])
    model.encoder.output.conv.bias.set_value(paddle.randn([16]))
    blend = model.blend(model.logits(images).transpose([0, 2, 3, 1])).numpy()
    model.set_codebook_by_distance(codes, spread=0.3)
    distances = ((blend[..., None, :] - codes.numpy()) ** 2).sum(-1)
    shared = model.logits(images).transpose([0, 2, 3, 1]).numpy() + distances / 0.3
    assert np.allclose(shared, shared[..., :1], atol=1e-3)
    assert np.array_equal(model.encode(images).numpy(), distances.argmin(-1))
    assert np.array_equal(model.codebook.numpy(), codes.numpy())


def test_images_are_the_means_of_the_logit_laplace_distribution(model):
    z_emb = model.embed(model.encode(pictures(1, 3, 8, 8)))
    means = 1 / (1 + np.exp(-model.statistics(z_emb).numpy()[:, :3]))
    wanted = np.clip((means - 0.1) / 0.8, 0, 1)
    assert np.allclose(model.decode_embeddings(z_emb).numpy(), wanted, atol=1e-5)


def test_pixels_are_mapped_away_from_0_and_1():
    pixels = paddle.linspace(0, 1, 11).reshape([1, 1, 1, 11])
    mapped = map_pixels(pixels)
    assert np.allclose([float(mapped.min()), float(mapped.max())], [0.1, 0.9])
    assert np.allclose(unmap_pixels(mapped).numpy(), pixels.numpy(), atol=1e-6)
    assert unmap_pixels(paddle.to_tensor([0.0, 1.0])).tolist() == [0, 1]


def test_an_embedding_equals_a_convolution_with_bias_of_its_one_hot_vector(model):
    """The codebook contains the output of OpenAI's first layer for a one-hot vector, also for a relaxed one."""
    weight, bias = paddle.randn([6, 16, 1, 1]), paddle.randn([6])
    model.codebook.set_value(weight[:, :, 0, 0].T + bias)
    indices = paddle.to_tensor([[[3, 0], [15, 7]]])
    hot = F.one_hot(indices, 16).transpose([0, 3, 1, 2])
    assert np.allclose(
        model.embed(indices).transpose([0, 3, 1, 2]).numpy(), F.conv2d(hot, weight, bias).numpy(), atol=1e-6
    )
    soft = F.softmax(paddle.randn([1, 16, 2, 2]), 1)
    mixed = paddle.matmul(soft.transpose([0, 2, 3, 1]), model.codebook).transpose([0, 3, 1, 2])
    assert np.allclose(mixed.numpy(), F.conv2d(soft, weight, bias).numpy(), atol=1e-5)


def test_the_gain_of_a_block_is_one_over_the_squared_number_of_blocks(model):
    blocks = [layer for layer in model.sublayers() if hasattr(layer, "gain")]
    assert len(blocks) == 2 * 3 * 2 and {block.gain for block in blocks} == {1 / 36}


def test_gradients_flow_through_the_decoder_to_z_emb(model):
    z_emb = paddle.randn([2, 2, 3, 6])
    z_emb.stop_gradient = False
    model.decode_embeddings(z_emb).sum().backward()
    assert z_emb.grad.shape == [2, 2, 3, 6] and z_emb.grad.abs().sum() > 0


def test_save_and_load(model, tmp_path):
    model.save(tmp_path / "t")
    loaded = image.load(tmp_path / "t")
    assert loaded.kind == "dvae" and loaded.settings == model.settings and not loaded.training
    assert loaded.fingerprint() == model.fingerprint()
    images = pictures(2, 3, 8, 8)
    assert np.array_equal(loaded.decode(loaded.encode(images)).numpy(), model.decode(model.encode(images)).numpy())


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(downsamplings=0), "dvae.downsamplings=0"),
        (dict(base_channels=6), "dvae.base_channels=6"),
        (dict(base_channels=0), "dvae.base_channels=0"),
        (dict(residual_blocks=0), "dvae.residual_blocks=0"),
        (dict(codebook_size=1), "dvae.codebook_size=1"),
        (dict(code_dim=0), "dvae.code_dim=0"),
    ],
)
def test_invalid_dvae_settings(change, message):
    with pytest.raises(SettingsError, match=message):
        config.DVAE(**{**SIZES, **change})
