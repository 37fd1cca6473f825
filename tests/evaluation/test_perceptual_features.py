"""Features whose squared distances are like LPIPS."""

import numpy as np
import paddle
import pytest

from vilg.evaluation import perceptual_features
from vilg.evaluation.perceptual_features import PerceptualFeatures, stored_features
from vilg.image import lpips


@pytest.fixture
def features(lpips_file):
    return PerceptualFeatures(lpips_file)


def images(count, side=32):
    return np.random.default_rng(0).random([count, 3, side, side]).astype(np.float32)


def test_without_cells_the_squared_distance_is_lpips(features, lpips_file, monkeypatch):
    monkeypatch.setattr(perceptual_features, "GRID", 32)
    pixels = images(4)
    vectors = features(pixels).astype(np.float64)
    distance = lpips.load(lpips_file)
    a, b = (paddle.to_tensor(part * 2 - 1) for part in (pixels[:2], pixels[2:]))
    found = ((vectors[:2] - vectors[2:]) ** 2).sum(1)
    assert np.allclose(found, distance(a, b).numpy(), rtol=1e-4)


def test_cells_make_vectors_short_and_tolerant_of_small_shifts(features, monkeypatch):
    pixels = images(1, 64).repeat(8, axis=2).repeat(8, axis=3)[:, :, :64, :64]  # large squares
    shifted = np.roll(pixels, 2, axis=3)
    coarse = features(np.concatenate([pixels, shifted]))
    monkeypatch.setattr(perceptual_features, "GRID", 64)
    fine = features(np.concatenate([pixels, shifted]))
    assert coarse.shape[1] == (64 + 128 + 256 + 512 + 512) * 16 < fine.shape[1] / 10
    assert ((coarse[0] - coarse[1]) ** 2).sum() < 0.7 * ((fine[0] - fine[1]) ** 2).sum()


def test_batches_do_not_change_the_features(features, monkeypatch):
    pixels = images(5)
    whole = features(pixels)
    monkeypatch.setattr(perceptual_features, "_AT_ONCE", 2)
    assert np.allclose(features(pixels), whole, atol=1e-6)


def test_stored_features_are_read_only_for_the_same_pixels(features, tmp_path, monkeypatch, caplog):
    file, pixels = tmp_path / "features.npz", (images(3).transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    first = stored_features(features, pixels, file)
    assert first.dtype == np.float16 and np.array_equal(stored_features(features, pixels, None), first)
    with monkeypatch.context() as patch:
        patch.setattr(PerceptualFeatures, "__call__", lambda *_, **__: pytest.fail("computed again"))
        assert np.array_equal(stored_features(features, pixels, file), first)
    other = stored_features(features, pixels[::-1], file)
    assert not np.array_equal(other, first)
    file.write_bytes(b"x")
    assert np.array_equal(stored_features(features, pixels[::-1], file), other)
    assert "not a file of features" in caplog.text
