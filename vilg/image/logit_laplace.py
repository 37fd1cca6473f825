"""The logit-laplace distribution of pixels (Ramesh et al., arXiv 2102.12092, appendix A.3)."""

import math

import paddle
import paddle.nn.functional as F


def negative_log_likelihood(mapped: paddle.Tensor, statistics: paddle.Tensor, least: float = 0.0) -> paddle.Tensor:
    """-ln f of mapped pixels [B, 3, H, W] in (0, 1), averaged over all of them, in nats.

    f(x | mu, b) = exp(-|logit(x) - mu| / b) / (2 b x (1 - x)). statistics: [B, 6, H, W], three channels of mu and three
    of ln(b - least). For pixels that can be predicted exactly, b approaches `least`, which bounds the loss and its
    gradients.
    """
    mean, log_scale = statistics.split(2, axis=1)
    x, rest = mapped.log(), (1 - mapped).log()
    scale = log_scale.exp() + least
    return ((x - rest - mean).abs() / scale + scale.log() + x + rest).mean() + math.log(2)


def squared_error_and_nll(
    mapped: paddle.Tensor, statistics: paddle.Tensor, least: float = 0.0
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """The mean of (logit(x) - mu)^2, which trains mu, and the negative log-likelihood, which trains only b.

    This is easier to learn at the start and has the same optimum. The gradient of the likelihood at mu is the sign of
    the error divided by b: large errors count no more than small ones, and less where b is large. The squared error
    makes the same progress in half the steps, and the scales b are already trained when the likelihood takes over.
    """
    mean, log_scale = statistics.split(2, axis=1)
    likelihood = negative_log_likelihood(mapped, paddle.concat([mean.detach(), log_scale], axis=1), least)
    return F.mse_loss(mean, mapped.log() - (1 - mapped).log()), likelihood
