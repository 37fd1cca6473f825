"""Distances between two sets of features, in float64."""

from dataclasses import dataclass

import numpy as np

_INFINITY_POINTS = 15  # numbers of images at which the FID is measured for its extrapolation, as in arXiv 1911.07023
_KID_SUBSETS, _KID_SIZE = 100, 1000  # as in arXiv 1801.01401


@dataclass(frozen=True)
class Statistics:
    """mean [d] and covariance [d, d] of the features of `images` images; None if the number is not known."""

    mean: np.ndarray
    covariance: np.ndarray
    images: int | None = None


def statistics(features: np.ndarray) -> Statistics:
    """Of features [N, d], N > 1."""
    features = features.astype(np.float64)
    mean = features.mean(0)
    centered = features - mean
    return Statistics(mean, centered.T @ centered / (len(features) - 1), len(features))


def frechet(one: Statistics, other: Statistics) -> float:
    """|m - m'|^2 + trace(C + C' - 2 (C C')^(1/2)) (Heusel et al., arXiv 1706.08500, equation (6)).

    The trace of (C C')^(1/2) is the sum of the singular values of C^(1/2) C'^(1/2). They are accurate also where the
    covariances are singular, as they are for fewer images than features; the roots of the eigenvalues of C C' are not.
    """
    crossed = np.linalg.svd(_square_root(one.covariance) @ _square_root(other.covariance), compute_uv=False).sum()
    return _combine(one, other, crossed)


def _combine(one: Statistics, other: Statistics, crossed: float) -> float:
    distance = ((one.mean - other.mean) ** 2).sum()
    return float(distance + np.trace(one.covariance) + np.trace(other.covariance) - 2 * crossed)


def _square_root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def frechet_infinity(features: np.ndarray, reference: Statistics, seed: int = 0) -> float:
    """The FID extrapolated to infinitely many images (Chong and Forsyth, arXiv 1911.07023).

    The FID of N images is too large by about c / N, and c depends on the model. A line through the FIDs of random
    subsets over 1 / N is read at 0.
    """
    rng, count = np.random.default_rng(seed), len(features)
    sizes = np.linspace(max(2, count // 2), count, _INFINITY_POINTS).astype(int)
    root, distances = _square_root(reference.covariance), []
    for size in sizes:
        subset = statistics(features[rng.choice(count, size, replace=False)])
        # Several times as fast as `frechet`, and accurate enough for a fit.
        eigenvalues = np.linalg.eigvalsh(root @ subset.covariance @ root)
        distances.append(_combine(subset, reference, np.sqrt(np.clip(eigenvalues, 0, None)).sum()))
    return float(np.polyfit(1 / sizes, distances, 1)[1])


def kernel_distance(features: np.ndarray, others: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """KID: the unbiased estimate of the squared maximum mean discrepancy with the kernel (x . y / d + 1)^3 (Binkowski
    et al., arXiv 1801.01401), times 1000: its mean over random subsets, and their standard deviation.
    """
    rng = np.random.default_rng(seed)
    size = min(_KID_SIZE, len(features), len(others))
    values = []
    for _ in range(_KID_SUBSETS):
        x = features[rng.choice(len(features), size, replace=False)].astype(np.float64)
        y = others[rng.choice(len(others), size, replace=False)].astype(np.float64)
        within = _kernel(x, x) + _kernel(y, y)
        within[np.diag_indices(size)] = 0
        values.append(within.sum() / (size * (size - 1)) - 2 * _kernel(x, y).mean())
    return float(1000 * np.mean(values)), float(1000 * np.std(values))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3
