"""Nearest-code quantization: equation (1) of the paper, its straight-through gradient, and the care of dead codes."""

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

    Section 3.1.1: z = q(E(x)) takes, for each position, the code nearest to the encoder's output.
    """

    def __init__(self, codes: int, dim: int):
        super().__init__()
        self.codebook = self.create_parameter(
            [codes, dim], default_initializer=nn.initializer.Uniform(-1 / math.sqrt(dim), 1 / math.sqrt(dim))
        )

    @property
    def uses_ema(self) -> bool:
        """Whether the codes follow means of features (moving_average.py) instead of gradients."""
        return self.codebook.stop_gradient

    def nearest(self, features: paddle.Tensor) -> paddle.Tensor:
        """Equation (1): the code of each of the features [.., d], int64 [..]."""
        return nearest_code(features, self.codebook)

    def embed(self, indices: paddle.Tensor) -> paddle.Tensor:
        """Indices [..] -> codes [.., d]."""
        return F.embedding(indices, self.codebook)

    def forward(self, features: paddle.Tensor):
        """Features [.., d] -> (z_emb with a straight-through gradient, indices, codebook term, commitment term).

        The two terms are those of equation (2): |sg[E(x)] - e|^2 moves only the codebook, |E(x) - sg[e]|^2 only the
        encoder. The straight-through estimator hands the decoder's gradient to the encoder as it is.
        """
        with paddle.no_grad():
            indices = self.nearest(features)
        codes = self.embed(indices)
        codebook_term = F.mse_loss(codes, features.detach())
        commitment_term = F.mse_loss(features, codes.detach())
        return features + (codes - features).detach(), indices, codebook_term, commitment_term


def count_codes(indices: paddle.Tensor, codes: int) -> paddle.Tensor:
    """Indices [..] -> int64 [codes], how often each of the codes was chosen."""
    return paddle.bincount(indices.flatten(), minlength=codes)


class CodeUsage:
    """How often each code was chosen lately, and the revival of those that never are.

    A code that no feature is nearest to gets no gradient and stays dead. Once a window has passed, every code chosen
    less than `threshold` times its fair share is moved onto a feature of the current batch.
    """

    def __init__(self, codes: int, threshold: float = 0.0):
        self.counts = paddle.zeros([codes])
        self.threshold = threshold

    def add(self, chosen: paddle.Tensor) -> None:
        """Count `chosen` [codes]: how often each code was chosen in one batch, on all ranks."""
        self.counts += chosen.astype("float32")

    def used(self) -> float:
        """The share of codes chosen at least once since the last reset."""
        return float((self.counts > 0).astype("float32").mean())

    def perplexity(self) -> float:
        """exp of the entropy of the choices: the number of codes in even use."""
        share = self.counts / self.counts.sum().clip(min=1.0)
        return float((-(share * (share + 1e-10).log()).sum()).exp())

    def reset(self) -> None:
        self.counts = paddle.zeros_like(self.counts)

    @paddle.no_grad()
    def restart_dead_codes(self, quantizer: NearestCode, features: paddle.Tensor, seed: int) -> paddle.Tensor:
        """Move the codes in too little use onto `features` [N, d], drawn by `seed`; returns those that moved, [M]."""
        fair_share = float(self.counts.sum()) / self.counts.shape[0]
        dead = (self.counts < self.threshold * fair_share).nonzero().flatten()
        moved = dead[: features.shape[0]]
        if moved.shape[0]:
            chosen = np.random.default_rng(seed).permutation(features.shape[0])[: moved.shape[0]]
            codebook = quantizer.codebook
            codebook.set_value(paddle.scatter(codebook, moved, features[paddle.to_tensor(chosen)]))
        return moved
