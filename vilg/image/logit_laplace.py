"""The logit-laplace distribution of pixels (Ramesh et al., arXiv 2102.12092, appendix A.3)."""

import math

import paddle
import paddle.nn.functional as F


def negative_log_likelihood(mapped: paddle.Tensor, statistics: paddle.Tensor, least: float = 0.0) -> paddle.Tensor:
    """-ln f of mapped pixels [B, 3, H, W] in (0, 1), the mean over all of them, in nats.

    f(x | mu, b) = exp(-|logit(x) - mu| / b) / (2 b x (1 - x)); statistics [B, 6, H, W] are three channels of mu and
    three of ln(b - least). Where pixels can be told exactly b goes to its `least`, which therefore bounds the loss and
    its gradients.
    """
    mean, log_scale = statistics.split(2, axis=1)
    x, rest = mapped.log(), (1 - mapped).log()
    scale = log_scale.exp() + least
    return ((x - rest - mean).abs() / scale + scale.log() + x + rest).mean() + math.log(2)


def squared_error_and_nll(
    mapped: paddle.Tensor, statistics: paddle.Tensor, least: float = 0.0
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """The mean of (logit(x) - mu)^2, from which mu learns, and the negative log-likelihood, from which only b learns.

    An easier beginning that leads to the same place. The likelihood's gradient at mu is the sign of the error over b:
    what is far off pulls no harder than what is nearly right, and less where b has grown. The square gets as far in
    half of the steps, and the scales fit when the likelihood takes over.
    """
    mean, log_scale = statistics.split(2, axis=1)
    likelihood = negative_log_likelihood(mapped, paddle.concat([mean.detach(), log_scale], axis=1), least)
    return F.mse_loss(mean, mapped.log() - (1 - mapped).log()), likelihood
