"""The reference implementation: softmax(Q K^T / sqrt(D) + mask) V with all scores."""

import paddle
import paddle.nn.functional as F


def dense_attention(q, k, v, additive_mask):
    """q, k, v [B, S, H, D] and a mask [S, S] of 0 and -inf -> [B, S, H, D]. Scores and softmax are in fp32."""
    q, k, v = (x.transpose([0, 2, 1, 3]) for x in (q, k, v))  # [B, H, S, D]
    scores = paddle.matmul(q * q.shape[-1] ** -0.5, k, transpose_y=True)
    weights = F.softmax(scores.astype("float32") + additive_mask, axis=-1).astype(v.dtype)
    return paddle.matmul(weights, v).transpose([0, 2, 1, 3])
