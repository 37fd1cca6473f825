"""Gumbel-softmax: differentiable sampling of codes (Jang et al., arXiv 1611.01144)."""

import math

import paddle
import paddle.nn.functional as F


def gumbel_softmax(logits: paddle.Tensor, temperature: float, straight_through: bool) -> paddle.Tensor:
    """Logits [.., codes] -> softmax((logits + Gumbel noise) / temperature) [.., codes].

    With `straight_through`, the values are one-hot and the gradient is that of the softmax.
    """
    uniform = paddle.uniform(logits.shape, min=1e-20, max=1.0)
    noise = -(-uniform.log()).clip(min=1e-20).log()  # uniform may round to 1
    soft = F.softmax((logits + noise) / temperature, -1)
    if not straight_through:
        return soft
    hard = F.one_hot(soft.argmax(-1), logits.shape[-1])
    return soft + (hard - soft).detach()


def kl_to_uniform(logits: paddle.Tensor) -> paddle.Tensor:
    """KL(softmax(logits) || uniform) of logits [.., codes] in nats, averaged over all positions."""
    # Paddle's log_softmax takes 70 times as long as its softmax on a CPU. Clipped terms contribute nothing.
    share = F.softmax(logits, -1)
    return (share * share.clip(min=1e-30).log()).sum(-1).mean() + math.log(logits.shape[-1])
