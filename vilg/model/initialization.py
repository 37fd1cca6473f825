"""Initial weights: normal with standard deviation 0.02, as in BERT; smaller for residual projections."""

import math

from paddle import ParamAttr, nn

STD = 0.02


def normal() -> ParamAttr:
    """Standard deviation 0.02."""
    return ParamAttr(initializer=nn.initializer.Normal(0.0, STD))


def residual(layers: int) -> ParamAttr:
    """Standard deviation 0.02 / sqrt(2 L): the sum of 2 L residual branches then has the variance of one."""
    return ParamAttr(initializer=nn.initializer.Normal(0.0, STD / math.sqrt(2 * layers)))
