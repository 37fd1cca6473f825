"""Nearest images by squared error, and SSIM compared with a loop over windows."""

import numpy as np

from vilg.evaluation.image_metrics import mean_ssim, nearest


def test_nearest_image_has_the_smallest_squared_error():
    rng = np.random.default_rng(0)
    images, among = rng.random([7, 3, 4, 5], np.float32), rng.random([11, 3, 4, 5], np.float32)
    by_hand = [min(range(11), key=lambda n: ((image - among[n]) ** 2).sum()) for image in images]
    assert nearest(images, among).tolist() == by_hand


def test_nearest_image_of_a_brightened_image_is_its_original():
    images = np.random.default_rng(0).random([9, 3, 8, 8], np.float32)
    assert nearest(images[::-1] + 0.1, images).tolist() == list(range(9))[::-1]


def brute_force(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM of one channel [H, W]."""
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(window, window) / window.sum() ** 2
    found = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            both = (window * (a - mean_a) * (b - mean_b)).sum()
            found.append(
                (2 * mean_a * mean_b + 1e-4)
                * (2 * both + 9e-4)
                / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
            )
    return np.mean(found)


def test_ssim_matches_a_loop_over_windows():
    images, others = np.random.default_rng(0).random([2, 2, 3, 14, 17])
    others = 0.7 * images + 0.3 * others
    wanted = np.mean([brute_force(images[n, c], others[n, c]) for n in range(2) for c in range(3)])
    assert np.isclose(mean_ssim(images, others), wanted)


def test_ssim_bounds_on_small_images():
    images = np.random.default_rng(0).random([1, 3, 8, 8])
    assert np.isclose(mean_ssim(images, images), 1) and mean_ssim(images, 1 - images) < 0
