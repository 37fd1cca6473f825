"""Gradient clipping by the global norm of a gradient that is sharded over ranks."""

import math
from collections.abc import Callable

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.nn.clip import ClipGradBase

from vilg.arrays import to_numpy


class NonFiniteGradientError(ArithmeticError):
    """The gradient is not finite. No parameter has been updated with it."""


class RefusedGradientError(ArithmeticError):
    """The caller does not accept the norm of the gradient. No parameter has been updated with it."""


class GlobalNormClip(ClipGradBase):
    """Scales gradients so that their global norm is at most `max_norm` (0: no clipping), and stores the norm in `norm`.

    `group_norms` gets the norm of each group of parameters before clipping. `groups` is {name of a parameter in Paddle:
    group}, equal on all ranks; the engine sets it.

    Raises NonFiniteGradientError on all ranks if the norm is not finite, unless `may_overflow` (fp16), where the loss
    scaler skips such a step. Raises RefusedGradientError on all ranks if `accepts(norm)` is false on one of them.

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
        self.accepts: Callable[[float], bool] | None = None
        self.groups: dict[str, str] = {}
        self.group_norms: dict[str, float] = {}
        self._place = paddle.framework._current_expected_place()  # offloaded gradients are in host memory

    @paddle.no_grad()
    def _dygraph_clip(self, params_grads):
        self.measure(params_grads)
        if not math.isfinite(self.norm):
            if self.may_overflow:
                return params_grads
            raise NonFiniteGradientError
        if self.accepts is not None and not self._all_ranks(self.accepts(self.norm)):
            raise RefusedGradientError
        if 0 < self.max_norm < self.norm:
            for _, gradient in params_grads:
                gradient.scale_(self.max_norm / self.norm)
        return params_grads

    @paddle.no_grad()
    def measure(self, params_grads) -> float:
        """Set `norm` and `group_norms`, and return the norm."""
        whole = self._squares([pair for pair in params_grads if self.is_replicated(pair[0])])
        split = self._sum(self._squares([pair for pair in params_grads if not self.is_replicated(pair[0])]))
        self.norm, *norms = (value**0.5 for value in (whole + split).tolist())
        self.group_norms = dict(zip(self._group_names(), norms))
        return self.norm

    def _group_names(self) -> list[str]:
        return list(dict.fromkeys(self.groups.values()))

    def _squares(self, params_grads) -> np.ndarray:
        """Sums of squares of these gradients: of all, then of each group, float64 [1 + groups]."""
        sums = dict.fromkeys(["", *self._group_names()], np.float32(0))
        squares = _squared_norms([gradient for _, gradient in params_grads])
        with np.errstate(over="ignore"):  # the norm becomes infinite, which the caller handles
            for (parameter, _), square in zip(params_grads, squares):
                sums[""] += square
                # Stage 3 names the local slice of a parameter slice@NAME.
                group = self.groups.get(parameter.name.removeprefix("slice@"))
                if group is not None:
                    sums[group] += square
        return np.array(list(sums.values()), np.float64)

    def _all_ranks(self, accepted: bool) -> bool:
        """Whether all ranks of the job accept: replicas may compute norms that differ in the last bit."""
        if dist.get_world_size() == 1:
            return accepted
        refusals = paddle.to_tensor([float(not accepted)], place=self._place)
        dist.all_reduce(refusals)
        return float(refusals[0]) == 0.0

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Sum over the ranks of the group, in one reduction."""
        if self.group is None:
            return values
        total = paddle.to_tensor(values, place=self._place)
        dist.all_reduce(total, group=self.group)
        return to_numpy(total)


def _squared_norms(gradients: list[paddle.Tensor]) -> np.ndarray:
    """The sum of squares of each gradient in fp32. The host waits for the device only once."""
    if not gradients:
        return np.zeros(0, np.float32)
    # paddle.linalg.norm takes 20 times as long on a CPU.
    wide = (gradient if gradient.dtype == paddle.float32 else gradient.astype("float32") for gradient in gradients)
    return to_numpy(paddle.stack([gradient.square().sum() for gradient in wide]))
