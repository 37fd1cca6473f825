"""k-means against Lloyd's algorithm in numpy, and codes that are nearest to no feature."""

import numpy as np
import paddle

from vilg.image import kmeans as module
from vilg.image.kmeans import kmeans


def lloyd(features, codes, seed, rounds):
    means = features[np.random.default_rng(seed).permutation(len(features))[:codes]]
    for _ in range(rounds):
        nearest = ((features[:, None] - means) ** 2).sum(-1).argmin(1)
        means = np.stack([features[nearest == code].mean(0) for code in range(codes)])
    return means, ((features[:, None] - means) ** 2).sum(-1).min(1).mean()


def test_against_numpy(monkeypatch):
    monkeypatch.setattr(module, "_TOGETHER", 100)  # so that the last block is smaller than the others
    features = np.random.default_rng(0).normal(size=(350, 5))
    means, spread = kmeans(paddle.to_tensor(features), 7, seed=3)
    expected, expected_spread = lloyd(features, 7, seed=3, rounds=10)
    assert np.allclose(means.numpy(), expected) and np.isclose(spread, expected_spread)


def test_repeated_features_do_not_waste_codes():
    """990 of 1,000 features are equal, and ten others are far from them and from each other."""
    features = np.concatenate([np.zeros([990, 2]), 10.0 * np.stack([np.cos(np.arange(10)), np.sin(np.arange(10))], -1)])
    means, spread = kmeans(paddle.to_tensor(features), 11, seed=0)
    assert spread < 1e-12
    assert np.allclose(np.unique(means.numpy().round(6), axis=0), np.unique(features.round(6), axis=0))
