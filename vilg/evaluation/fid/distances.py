"""Distances between two sets of features, in float64."""

from dataclasses import dataclass

import numpy as np

_INFINITY_POINTS = 15  # numbers of images at which the FID is measured for its extrapolation, as in arXiv 1911.07023
_KID_SUBSETS, _KID_SIZE = 100, 1000  # as in arXiv 1801.01401


@dataclass(frozen=True)
class Statistics:
    """mean [d] and covariance [d, d] of the features of `images` images; None if the number is not known.

    rows: a matrix [r, d] with rows^T rows = covariance, if one is known that is smaller than [d, d].
    """

    mean: np.ndarray
    covariance: np.ndarray
    images: int | None = None
    rows: np.ndarray | None = None

    def factor(self) -> np.ndarray:
        """A matrix [r, d] with factor^T factor = covariance and r <= d."""
        return self.rows if self.rows is not None else _square_root(self.covariance)


def statistics(features: np.ndarray) -> Statistics:
    """Of features [N, d], N > 1."""
    features = features.astype(np.float64)
    mean = features.mean(0)
    rows = (features - mean) / np.sqrt(len(features) - 1)
    return Statistics(mean, rows.T @ rows, len(features), rows if len(rows) < rows.shape[1] else None)


def frechet(one: Statistics, other: Statistics) -> float:
    """|m - m'|^2 + trace(C + C' - 2 (C C')^(1/2)) (Heusel et al., arXiv 1706.08500, equation (6)).

    With C = F^T F and C' = F'^T F', the trace of (C C')^(1/2) is the sum of the singular values of F F'^T. They are
    accurate also where the covariances are singular, as they are for fewer images than features; the roots of the
    eigenvalues of C C' are not.
    """
    return _distance(one, other, other.factor(), accurate=True)


def _distance(one: Statistics, other: Statistics, factor: np.ndarray, accurate: bool) -> float:
    """factor: of `other`. With many images, `accurate` takes several times as long."""
    if accurate or one.rows is not None:
        crossed = np.linalg.svd(one.factor() @ factor.T, compute_uv=False).sum()
    else:
        crossed = np.sqrt(np.clip(np.linalg.eigvalsh(factor @ one.covariance @ factor.T), 0, None)).sum()
    distance = ((one.mean - other.mean) ** 2).sum()
    return float(distance + np.trace(one.covariance) + np.trace(other.covariance) - 2 * crossed)


def _square_root(matrix: np.ndarray) -> np.ndarray:
    """[r, d], whose Gram matrix is the symmetric `matrix` of rank r without negative eigenvalues."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    kept = values > values.max(initial=0) * len(values) * np.finfo(np.float64).eps
    return (vectors[:, kept] * np.sqrt(values[kept])).T


def frechet_infinity(features: np.ndarray, reference: Statistics, seed: int = 0) -> float:
    """The FID extrapolated to infinitely many images (Chong and Forsyth, arXiv 1911.07023).

    The FID of N images is too large by about c / N, and c depends on the model. A line through the FIDs of random
    subsets over 1 / N is read at 0.
    """
    rng, count, factor = np.random.default_rng(seed), len(features), reference.factor()
    sizes = np.linspace(max(2, count // 2), count, _INFINITY_POINTS).astype(int)
    distances = [
        _distance(statistics(features[rng.choice(count, size, replace=False)]), reference, factor, accurate=False)
        for size in sizes
    ]
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
