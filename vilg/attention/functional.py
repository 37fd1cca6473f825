"""The public attention call. The model calls this and nothing else of the room."""

import paddle

from vilg.attention.layout import Layout
from vilg.attention.reference import dense_attention


def block_sparse_attention(q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, layout: Layout) -> paddle.Tensor:
    """softmax(Q K^T / sqrt(D)) V over the pairs that `layout` lets see each other.

    q, k, v: [B, S, H, D] with S = layout.length, in the order of positions that `patterns` describes.
    Returns [B, S, H, D] in the dtype of q.
    """
    if q.shape[1] != layout.length:
        raise ValueError(f"{q.shape[1]} positions given, the layout has {layout.length}")
    return dense_attention(q, k, v, layout.additive_mask)
