"""The VQ-VAE: equation (1) of the paper, the gradients of each term, and restarting dead codes."""

import numpy as np
import paddle
import pytest

from vilg import config, image
from vilg.errors import UserError
from vilg.image.quantizer import CodeUsage, NearestCode
from vilg.image.vqvae import VQVAE

SIZES = dict(downsamplings=2, base_channels=32, residual_blocks=1, codebook_size=16, code_dim=8)


@pytest.fixture
def model():
    paddle.seed(0)
    return VQVAE(config.VQVAE(**SIZES))


def images(count=3, size=16):
    return paddle.to_tensor(np.random.default_rng(0).random([count, 3, size, size], dtype=np.float32))


def test_nearest_code_by_brute_force():
    paddle.seed(1)
    quantizer = NearestCode(9, 5)
    features = paddle.randn([2, 3, 4, 5])
    distances = np.linalg.norm(features.numpy()[..., None, :] - quantizer.codebook.numpy(), axis=-1)
    assert np.array_equal(quantizer.nearest(features).numpy(), distances.argmin(-1))


def test_loss_against_numpy(model):
    """With the default beta = 0.25 of the commitment term."""
    loss, parts, features, indices, _ = model.losses(images())
    codes = model.quantizer.codebook.numpy()[indices.numpy()]
    gap = ((features.numpy() - codes) ** 2).mean()
    drawn = model.decode(indices).numpy() * 2 - 1
    target = images().numpy() * 2 - 1
    assert np.allclose(float(parts["codebook"]), gap, rtol=1e-4)
    assert np.allclose(float(parts["commitment"]), gap, rtol=1e-4)
    assert abs(drawn).max() < 1  # nothing is clipped, so decode returns what the loss compares
    assert np.allclose(float(parts["reconstruction"]), ((drawn - target) ** 2).mean(), rtol=1e-4)
    assert np.allclose(float(loss), float(parts["reconstruction"]) + 1.25 * gap, rtol=1e-4)


def test_straight_through_is_the_identity_for_the_encoder():
    quantizer = NearestCode(9, 5)
    features = paddle.randn([4, 5])
    features.stop_gradient = False
    z_emb, indices, _, _ = quantizer(features)
    assert np.allclose(z_emb.numpy(), quantizer.embed(indices).numpy(), atol=1e-6)
    weights = paddle.randn([4, 5])
    (z_emb * weights).sum().backward()
    assert np.allclose(features.grad.numpy(), weights.numpy())
    assert quantizer.codebook.grad is None or not quantizer.codebook.grad.numpy().any()


def test_each_loss_term_has_the_gradients_of_the_paper():
    quantizer = NearestCode(9, 5)
    for term, moves_features in ((2, False), (3, True)):
        features = paddle.randn([4, 5])
        features.stop_gradient = False
        quantizer.clear_gradients()
        quantizer(features)[term].backward()
        codebook_moved = quantizer.codebook.grad is not None and quantizer.codebook.grad.numpy().any()
        features_moved = features.grad is not None and features.grad.numpy().any()
        assert (bool(features_moved), bool(codebook_moved)) == (moves_features, not moves_features)


@pytest.mark.parametrize("height, width", [(4, 4), (12, 20), (32, 8)])
def test_every_size_that_the_factor_divides(model, height, width):
    pictures = paddle.rand([2, 3, height, width])
    indices = model.encode(pictures)
    assert indices.shape == [2, height // 4, width // 4] and model.decode(indices).shape == pictures.shape


def test_shapes_and_ranges(model):
    indices = model.encode(images(2, 24))
    assert indices.shape == [2, 6, 6] and indices.dtype == paddle.int64
    assert model.embed(indices).shape == [2, 6, 6, 8]
    pictures = model.decode(indices)
    assert pictures.shape == [2, 3, 24, 24]
    assert float(pictures.min()) >= 0 and float(pictures.max()) <= 1
    assert model.grid(24) == (6, 6)
    with pytest.raises(UserError, match="data.image_size=25"):
        model.grid(25)


def test_gradients_flow_through_the_decoder_to_z_emb(model):
    z_emb = paddle.randn([1, 4, 4, 8])
    z_emb.stop_gradient = False
    model.decode_embeddings(z_emb).sum().backward()
    assert z_emb.grad.abs().sum() > 0


def test_save_and_load(model, tmp_path):
    model.save(tmp_path / "t")
    loaded = image.load(tmp_path / "t")
    assert loaded.kind == "vqvae" and loaded.settings == model.settings and not loaded.training
    assert np.array_equal(loaded.encode(images()).numpy(), model.encode(images()).numpy())


@pytest.mark.parametrize(
    "damage, message",
    [
        ("no folder", "no such file"),
        ("no weights", "weights.safetensors: cannot be read"),
        ("half", "cannot be read"),
        ("json", "damaged"),
        ("kind", "unknown kind"),
        ("sizes", "not the weights"),
        ("key", "unknown key"),
    ],
)
def test_invalid_folders_are_one_line_errors(model, tmp_path, damage, message):
    folder = tmp_path / "t"
    model.save(folder)
    config_file, weights = folder / "config.json", folder / "weights.safetensors"
    if damage == "no folder":
        folder = tmp_path / "none"
    elif damage == "no weights":
        weights.unlink()
    elif damage == "half":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        text = config_file.read_text()
        changes = {
            "json": ("{", "{{"),
            "kind": ('"vqvae"', '"none"'),
            "sizes": ('"codebook_size": 16', '"codebook_size": 17'),
            "key": ('"codebook_size"', '"codebook_sise"'),
        }
        config_file.write_text(text.replace(*changes[damage]))
    with pytest.raises(UserError, match=message) as caught:
        image.load(folder)
    assert "\n" not in str(caught.value)


def test_usage_and_perplexity():
    usage = CodeUsage(4, threshold=0.1)
    usage.add(paddle.to_tensor([10, 10, 0, 0]))
    assert usage.used() == 0.5 and abs(usage.perplexity() - 2) < 1e-3
    usage.reset()
    assert usage.used() == 0


def test_dead_codes_are_restarted_at_features_and_live_codes_stay():
    quantizer = NearestCode(4, 3)
    before = quantizer.codebook.numpy()
    usage = CodeUsage(4, threshold=0.1)
    usage.add(paddle.to_tensor([50, 0, 50, 1]))
    features = paddle.arange(30, dtype="float32").reshape([10, 3])
    assert usage.restart_dead_codes(quantizer, features, seed=0).tolist() == [1, 3]
    after = quantizer.codebook.numpy()
    assert np.array_equal(after[[0, 2]], before[[0, 2]])
    rows = {tuple(row) for row in features.numpy()}
    assert all(tuple(row) in rows for row in after[[1, 3]]) and not np.array_equal(after[1], after[3])
    assert not quantizer.codebook.stop_gradient
