"""FID and KID against closed forms."""

import numpy as np
import pytest

from vilg.evaluation.fid.distances import (
    Statistics,
    frechet,
    frechet_infinity,
    kernel_distance,
    statistics,
)


def gaussian(count, size=16, shift=0.0, scale=1.0, seed=0):
    return np.random.default_rng(seed).normal(shift, scale, [count, size])


def test_statistics_are_those_of_numpy():
    features = gaussian(50)
    found = statistics(features.astype(np.float32))
    assert np.allclose(found.mean, features.mean(0), atol=1e-6) and found.images == 50
    assert np.allclose(found.covariance, np.cov(features, rowvar=False), atol=1e-6)


@pytest.mark.parametrize("count", [5, 100, 3000])  # five images: a covariance of rank four
def test_equal_sets_have_the_distance_zero(count):
    found = statistics(gaussian(count))
    assert abs(frechet(found, found)) < 1e-9


@pytest.mark.parametrize("count", [5, 100])
def test_a_shift_has_its_squared_length(count):
    features, shift = gaussian(count), np.arange(16) / 7
    distance = frechet(statistics(features), statistics(features + shift))
    assert distance == pytest.approx((shift**2).sum(), rel=1e-9, abs=1e-7)


def test_diagonal_covariances():
    one, other = (np.random.default_rng(seed).random(8) for seed in (0, 1))
    distance = frechet(Statistics(np.zeros(8), np.diag(one)), Statistics(np.zeros(8), np.diag(other)))
    assert distance == pytest.approx(((np.sqrt(one) - np.sqrt(other)) ** 2).sum(), rel=1e-12)


def test_scaled_features_with_a_covariance_that_is_nearly_singular():
    """Eigenvalues from 1e-14 to 1: for features multiplied by 3, C' = 9 C and the distance is 4 trace C."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=[32, 32]))[0]
    covariance = (basis * np.logspace(-14, 0, 32)) @ basis.T
    distance = frechet(Statistics(np.zeros(32), covariance), Statistics(np.zeros(32), 9 * covariance))
    assert distance == pytest.approx(4 * np.trace(covariance), rel=1e-7)


def test_the_distance_is_symmetric():
    one, other = statistics(gaussian(40, seed=1)), statistics(gaussian(60, scale=2.0, seed=2))
    assert frechet(one, other) == pytest.approx(frechet(other, one), rel=1e-9)


def test_the_extrapolation_removes_most_of_the_bias():
    """Both sets come from one distribution, whose distance from itself is zero."""
    reference = Statistics(np.zeros(16), np.eye(16))
    plain, extrapolated = [], []
    for seed in range(5):
        features = gaussian(400, seed=seed)
        plain.append(frechet(statistics(features), reference))
        extrapolated.append(frechet_infinity(features, reference, seed))
    assert np.mean(plain) > 0.2 and abs(np.mean(extrapolated)) < 0.3 * np.mean(plain)


def test_the_kernel_distance_is_unbiased_and_grows_with_the_difference():
    equal = [kernel_distance(gaussian(300, seed=2 * n), gaussian(300, seed=2 * n + 1))[0] for n in range(6)]
    assert abs(np.mean(equal)) < 3 * np.std(equal) / np.sqrt(6) + 5
    shifted = kernel_distance(gaussian(300, seed=1), gaussian(300, shift=0.5, seed=2))[0]
    far = kernel_distance(gaussian(300, seed=1), gaussian(300, shift=1.0, seed=2))[0]
    assert 10 * max(map(abs, equal)) < shifted < far


def test_the_kernel_distance_of_two_points_is_its_definition():
    x, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[2.0, 0.0], [0.0, 3.0]])

    def kernel(a, b):
        return (a @ b / 2 + 1) ** 3

    expected = kernel(x[0], x[1]) + kernel(y[0], y[1]) - 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == (pytest.approx(1000 * expected), pytest.approx(0))
