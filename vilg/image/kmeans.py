"""k-means clustering, for initializing a codebook."""

import numpy as np
import paddle

from vilg.image.ema_codebook import sum_by_code
from vilg.image.quantizer import count_codes, nearest_code

_ROUNDS = 10
_TOGETHER = 8192  # features in one product with all codes


@paddle.no_grad()
def kmeans(features: paddle.Tensor, codes: int, seed: int) -> tuple[paddle.Tensor, float]:
    """Cluster features [N, d], N >= codes. Returns codes [codes, d] and the mean squared distance of a feature from its
    code.

    Starts with features chosen by `seed`. A code without features moves to one of the features that are farthest from
    their code: repeated features, such as those of a white background, would otherwise attract many codes.
    """
    chosen = np.random.default_rng(seed).permutation(features.shape[0])[:codes]
    means = features[paddle.to_tensor(chosen)]
    for _ in range(_ROUNDS):
        indices, squared = _assigned(features, means)
        counts = count_codes(indices, codes)
        means = sum_by_code(features, indices, codes) / counts.clip(min=1).unsqueeze(-1).astype(features.dtype)
        empty = (counts == 0).nonzero().flatten()
        if empty.shape[0]:
            means = paddle.scatter(means, empty, features[squared.topk(empty.shape[0])[1]])
    return means, float(_assigned(features, means)[1].mean())


def _assigned(features: paddle.Tensor, means: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """The nearest of means [K, d] to each of features [N, d], and its squared distance; both [N]."""
    parts = [features[start : start + _TOGETHER] for start in range(0, features.shape[0], _TOGETHER)]
    indices = paddle.concat([nearest_code(part, means) for part in parts])
    return indices, (features - means[indices]).square().sum(-1)
