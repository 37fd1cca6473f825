"""The negative log-likelihood of target tokens."""

import paddle
import paddle.nn.functional as F


def summed_nll(logits: paddle.Tensor, ids: paddle.Tensor, counted: paddle.Tensor) -> paddle.Tensor:
    """-sum of log p(id) over the counted positions in nats, as an fp32 scalar. Not finite if any logit is not finite.

    logits: [B, K, classes]. ids: int64 [B, K]. counted: bool [B, K].
    """
    logits = logits.astype("float32")
    nll = F.cross_entropy(logits, ids, reduction="none").squeeze(-1)
    # For a row of NaN, Paddle's CPU softmax returns a uniform distribution if the number of classes is a multiple of 8,
    # and its cross entropy log(classes). Without this term, a diverged run would look healthy.
    return (nll * counted.astype("float32")).sum() + 0.0 * logits.detach().sum()
