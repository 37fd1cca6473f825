"""Quantization by likelihood: the encoder's output gives logits over codes."""

import paddle
import paddle.nn.functional as F
from paddle import nn

from vilg.image.gumbel_softmax import gumbel_softmax, kl_to_uniform


class GumbelCode(nn.Layer):
    """A codebook of `codes` vectors of size `dim`, and a layer that computes logits (taming-transformers'
    GumbelQuantize, after Jang et al., arXiv 1611.01144).
    """

    def __init__(self, codes: int, dim: int):
        super().__init__()
        self.codebook = self.create_parameter([codes, dim], default_initializer=nn.initializer.Normal())
        self.proj = nn.Linear(dim, codes)

    def logits(self, features: paddle.Tensor) -> paddle.Tensor:
        """Features [.., d] -> logits over codes [.., codes]."""
        return self.proj(features)

    def nearest(self, features: paddle.Tensor) -> paddle.Tensor:
        """Features [.., d] -> the most likely codes, int64 [..]; the counterpart of `NearestCode.nearest`."""
        return self.logits(features).argmax(-1)

    def forward(self, features: paddle.Tensor, temperature: float):
        """Features [.., d] -> (z_emb, indices, KL divergence from the uniform distribution in nats per position).

        z_emb is one code for each position, with the gradient of the Gumbel-softmax.
        """
        logits = self.logits(features)
        choice = gumbel_softmax(logits, temperature, straight_through=True)
        return paddle.matmul(choice, self.codebook), logits.argmax(-1), kl_to_uniform(logits)

    def embed(self, indices: paddle.Tensor) -> paddle.Tensor:
        """Indices [..] -> codes [.., d]."""
        return F.embedding(indices, self.codebook)
