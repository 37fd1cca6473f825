"""Nearest-code quantization (section 3.1.1 of the paper; van den Oord et al., arXiv 1711.00937, equation (2)), its
straight-through gradient, and restarts of dead codes.
"""

import math

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn


def nearest_code(features: paddle.Tensor, codes: paddle.Tensor) -> paddle.Tensor:
    """Features [.., d], codes [K, d] -> argmin_k |features - e_k|, int64 [..]."""
    # |f - e|^2 = |f|^2 - 2 f.e + |e|^2, and |f|^2 is the same for every code.
    scores = paddle.matmul(features, codes, transpose_y=True)
    return (scores - 0.5 * codes.square().sum(-1)).argmax(-1)


class NearestCode(nn.Layer):
    """A codebook of `codes` vectors of size `dim`.

    Section 3.1.1: z = q(E(x)) selects, for each position, the code nearest to the encoder's output.
    """

    def __init__(self, codes: int, dim: int):
        super().__init__()
        self.codebook = self.create_parameter(
            [codes, dim], default_initializer=nn.initializer.Uniform(-1 / math.sqrt(dim), 1 / math.sqrt(dim))
        )

    @property
    def uses_ema(self) -> bool:
        """Whether the codebook is updated by moving averages (ema_codebook.py) instead of gradients."""
        return self.codebook.stop_gradient

    def nearest(self, features: paddle.Tensor) -> paddle.Tensor:
        """The index of the nearest code for features [.., d], int64 [..]."""
        return nearest_code(features, self.codebook)

    def embed(self, indices: paddle.Tensor) -> paddle.Tensor:
        """Indices [..] -> codes [.., d]."""
        return F.embedding(indices, self.codebook)

    def forward(self, features: paddle.Tensor):
        """Features [.., d] -> (z_emb with a straight-through gradient, indices, codebook term, commitment term).

        The two terms are those of equation (1) of the paper: |sg[E(x)] - e|^2 trains only the codebook,
        |E(x) - sg[e]|^2 only the encoder. Here they are means over all elements. The straight-through estimator passes
        the gradient of the decoder to the encoder unchanged.
        """
        with paddle.no_grad():
            indices = self.nearest(features)
        codes = self.embed(indices)
        codebook_term = F.mse_loss(codes, features.detach())
        commitment_term = F.mse_loss(features, codes.detach())
        return features + (codes - features).detach(), indices, codebook_term, commitment_term


def count_codes(indices: paddle.Tensor, codes: int) -> paddle.Tensor:
    """Indices [..] -> int64 [codes], how often each code occurs."""
    return paddle.bincount(indices.flatten(), minlength=codes)


class CodeUsage:
    """Counts how often each code was chosen, and restarts dead codes.

    A code that is never the nearest gets no gradient and stays unused. At the end of a window, every code that was
    chosen less than `threshold` times its fair share is moved to a feature of the current batch.
    """

    def __init__(self, codes: int, threshold: float = 0.0):
        self.counts = paddle.zeros([codes])
        self.threshold = threshold

    def add(self, chosen: paddle.Tensor) -> None:
        """Add the counts `chosen` [codes] of one batch on all ranks."""
        self.counts += chosen.astype("float32")

    def used(self) -> float:
        """Share of codes that were chosen since the last reset."""
        return float((self.counts > 0).astype("float32").mean())

    def perplexity(self) -> float:
        """Exponential of the entropy of the choices: the effective number of codes."""
        share = self.counts / self.counts.sum().clip(min=1.0)
        return float((-(share * (share + 1e-10).log()).sum()).exp())

    def reset(self) -> None:
        self.counts = paddle.zeros_like(self.counts)

    @paddle.no_grad()
    def restart_dead_codes(self, quantizer: NearestCode, features: paddle.Tensor, seed: int) -> paddle.Tensor:
        """Move dead codes to features [N, d] chosen by `seed`. Returns the indices of moved codes, [M]."""
        fair_share = float(self.counts.sum()) / self.counts.shape[0]
        dead = (self.counts < self.threshold * fair_share).nonzero().flatten()
        moved = dead[: features.shape[0]]
        if moved.shape[0]:
            chosen = np.random.default_rng(seed).permutation(features.shape[0])[: moved.shape[0]]
            codebook = quantizer.codebook
            codebook.set_value(paddle.scatter(codebook, moved, features[paddle.to_tensor(chosen)]))
        return moved
