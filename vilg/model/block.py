"""One transformer layer: pre-LayerNorm attention and MLP."""

from typing import Protocol

import paddle
from paddle import nn

from vilg import config
from vilg.attention.functional import block_sparse_attention, choose_backend, packed_attention
from vilg.attention.layout import Layout
from vilg.model.fused import LayerNorm, gelu
from vilg.model.initialization import normal, residual
from vilg.model.linear import Linear


class AttentionContext(Protocol):
    """Attention for partial sequences: a source alone, or one target token with cached keys and values."""

    def attend(self, q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
        """q, k, v [B, S, H, D] -> [B, S, H, D]."""


class Attention(nn.Layer):
    """Multi-head self-attention over the pairs of positions that a layout makes visible."""

    def __init__(self, settings: config.Model, backend: str):
        super().__init__()
        hidden = settings.hidden
        self.heads, self.head_size = settings.heads, hidden // settings.heads
        self.backend = choose_backend(
            backend, self.head_size, paddle.get_device()
        )  # here, so that errors are raised before the first step
        self.qkv = Linear(hidden, 3 * hidden, weight_attr=normal())
        self.out = Linear(hidden, hidden, weight_attr=residual(settings.layers))
        self.norm_q = LayerNorm(self.head_size) if settings.qk_norm else None
        self.norm_k = LayerNorm(self.head_size) if settings.qk_norm else None

    def forward(self, x, context: Layout | AttentionContext):
        """x [B, S, hidden] -> [B, S, hidden]."""
        batch, length, hidden = x.shape
        qkv = self.qkv(x).reshape([batch, length, 3, self.heads, self.head_size])
        if self.norm_q is None and isinstance(context, Layout):
            attended = packed_attention(qkv, context, self.backend)
        else:
            q, k, v = qkv.unbind(2)
            if self.norm_q is not None and self.norm_k is not None:
                q, k = self.norm_q(q), self.norm_k(k)
            if isinstance(context, Layout):
                attended = block_sparse_attention(q, k, v, context, self.backend)
            else:
                attended = context.attend(q, k, v)
        return self.out(attended.reshape([batch, length, hidden]))


class MLP(nn.Layer):
    """Two linear layers with GELU, 4 x hidden wide."""

    def __init__(self, settings: config.Model):
        super().__init__()
        hidden = settings.hidden
        self.widen = Linear(hidden, 4 * hidden, weight_attr=normal())
        self.out = Linear(4 * hidden, hidden, weight_attr=residual(settings.layers))

    def forward(self, x):
        return self.out(gelu(self.widen(x)))


class Block(nn.Layer):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    With `sandwich_norm`, the output of each branch is normalized as well. The branches compute in the type of the
    parameters, and x keeps its own.
    """

    def __init__(self, settings: config.Model, backend: str):
        super().__init__()
        self.norm_attention, self.attention = LayerNorm(settings.hidden), Attention(settings, backend)
        self.norm_mlp, self.mlp = LayerNorm(settings.hidden), MLP(settings)
        self.leave_attention = LayerNorm(settings.hidden) if settings.sandwich_norm else nn.Identity()
        self.leave_mlp = LayerNorm(settings.hidden) if settings.sandwich_norm else nn.Identity()
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x, context: Layout | AttentionContext):
        """x [B, S, hidden] -> [B, S, hidden]."""
        attended = self.leave_attention(self.attention(self.norm_attention(x), context))
        x = _add(x, self.dropout(attended))
        return _add(x, self.dropout(self.leave_mlp(self.mlp(self.norm_mlp(x)))))


def _add(x: paddle.Tensor, branch: paddle.Tensor) -> paddle.Tensor:
    """The residual connection, in the type of the stream x."""
    return x + (branch if branch.dtype == x.dtype else branch.astype(x.dtype))
