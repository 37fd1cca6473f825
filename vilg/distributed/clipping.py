"""Gradient clipping by the global norm of a gradient that is sharded over ranks."""

import math
from collections.abc import Callable

import paddle
import paddle.distributed as dist
from paddle.nn.clip import ClipGradBase


class NonFiniteGradientError(ArithmeticError):
    """The gradient is not finite. No parameter has been updated with it."""


class GlobalNormClip(ClipGradBase):
    """Scales gradients so that their global norm is at most `max_norm` (0: no clipping), and stores the norm in `norm`.

    Raises NonFiniteGradientError on all ranks if the norm is not finite, unless `may_overflow` (fp16), where the loss
    scaler skips such a step.

    The optimizer calls it with the parameters that this rank updates. group: the ranks that shard the parameters, or
    None. is_replicated(parameter): whether every rank of the group holds the whole parameter, so that it counts once.

    Paddle's GroupShardedClipGrad does not expose the norm and fails on CPUs.
    """

    def __init__(
        self,
        max_norm: float,
        group: dist.communication.group.Group | None = None,
        is_replicated: Callable[[paddle.Tensor], bool] = lambda parameter: True,
        may_overflow: bool = False,
    ):
        super().__init__()
        self.max_norm, self.group, self.is_replicated, self.may_overflow = max_norm, group, is_replicated, may_overflow
        self.norm = 0.0
        self._place = paddle.framework._current_expected_place()  # offloaded gradients are in host memory

    @paddle.no_grad()
    def _dygraph_clip(self, params_grads):
        whole = [gradient for parameter, gradient in params_grads if self.is_replicated(parameter)]
        split = [gradient for parameter, gradient in params_grads if not self.is_replicated(parameter)]
        self.norm = (_squares(whole) + self._sum(_squares(split))) ** 0.5
        if not math.isfinite(self.norm):
            if self.may_overflow:
                return params_grads
            raise NonFiniteGradientError
        if 0 < self.max_norm < self.norm:
            for _, gradient in params_grads:
                gradient.scale_(self.max_norm / self.norm)
        return params_grads

    def _sum(self, value: float) -> float:
        if self.group is None:
            return value
        total = paddle.to_tensor([value], "float64", place=self._place)
        dist.all_reduce(total, group=self.group)
        return float(total[0])


def _squares(gradients: list[paddle.Tensor]) -> float:
    # paddle.linalg.norm takes 20 times as long on a CPU.
    wide = (gradient if gradient.dtype == paddle.float32 else gradient.astype("float32") for gradient in gradients)
    return float(sum(gradient.square().sum() for gradient in wide))
