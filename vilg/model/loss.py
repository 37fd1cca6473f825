"""The negative log-likelihood of target tokens, and the z-loss."""

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


def summed_z_loss(logits: paddle.Tensor, counted: paddle.Tensor) -> paddle.Tensor:
    """The sum of log(Z)^2 over the counted positions, where Z is the denominator of the softmax. An fp32 scalar.

    Softmax does not change when a constant is added to all logits, so the likelihood alone lets them drift, until 16
    bits are too coarse for them. This loss keeps log(Z) close to 0 (PaLM, arXiv 2204.02311, section 5; Chameleon, arXiv
    2405.09818, section 2.3). Arguments: as in `summed_nll`.
    """
    log_z = paddle.logsumexp(logits.astype("float32"), axis=-1)
    return (log_z.square() * counted.astype("float32")).sum()
