"""The negative log-likelihood of target tokens."""

import paddle
import paddle.nn.functional as F


def summed_nll(logits: paddle.Tensor, ids: paddle.Tensor, counted: paddle.Tensor) -> paddle.Tensor:
    """-sum of log p(id) over the counted positions, in nats, fp32. Not finite if any logit is not.

    logits [B, K, classes], ids int64 [B, K], counted bool [B, K] -> a scalar.
    """
    logits = logits.astype("float32")
    nll = F.cross_entropy(logits, ids, reduction="none").squeeze(-1)
    # Paddle's CPU softmax answers a row of NaN with an even distribution wherever the classes are a multiple of 8, and
    # its cross entropy with log(classes): without this term a run that has blown up would look healthy.
    return (nll * counted.astype("float32")).sum() + 0.0 * logits.detach().sum()
