"""Data types of training.

fp32, or 16 bits (AMP O2 in Paddle): parameters and activations are in bf16 or fp16; master weights, optimizer moments
and accumulated gradients are in fp32. The model itself says which of its activations are in fp32
(vilg/model/transformer.py). The engine therefore needs no autocast, and the types are the same on a CPU and on a GPU.
"""

import logging
from dataclasses import dataclass
from typing import Literal

import paddle
from paddle import _legacy_C_ops, nn

from vilg import config
from vilg.attention import operator
from vilg.config import require
from vilg.config.distributed import DTYPES
from vilg.distributed.main_gradients import accumulate_in_fp32, gradient
from vilg.distributed.world import World

log = logging.getLogger(__name__)


class LossScaler(paddle.amp.GradScaler):
    """Scales the loss of fp16, whose exponent range is too small for gradients."""

    _scale: paddle.Tensor
    _found_inf: int  # type: ignore[assignment]

    def scale(self, var: paddle.Tensor) -> paddle.Tensor:
        return var * self._scale  # Paddle's method disables the scaler where autocast is off

    def _unscale(self, optimizer: paddle.optimizer.Optimizer) -> None:
        """As Paddle's method, also for main gradients. Sharding stages replace it by their own."""
        gradients = [own for one in optimizer._parameter_list if (own := gradient(one)) is not None]
        found = paddle.to_tensor([False])
        _legacy_C_ops.check_finite_and_unscale(gradients, self._scale, gradients, found)  # type: ignore[attr-defined]
        self._found_inf = int(bool(found.item()))

    def _update(self) -> None:
        """As Paddle's method, whose message about an overflow fails with numpy 2.4."""
        if self._cache_found_inf:
            self._incr_count, self._decr_count = 0, self._decr_count + 1
            if self._decr_count == self._decr_every_n_nan_or_inf:
                self._scale, self._decr_count = self._scale * self._decr_ratio, 0
                log.info("a gradient exceeds fp16; the loss scale is %g now", self._scale.item())
        else:
            self._incr_count, self._decr_count = self._incr_count + 1, 0
            if self._incr_count == self._incr_every_n_steps:
                self._scale, self._incr_count = self._scale * self._incr_ratio, 0


@dataclass(frozen=True)
class Precision:
    """name: fp32, bf16 or fp16. main_gradients: whether gradients are accumulated and reduced in fp32."""

    name: str
    main_gradients: bool = True

    @property
    def is_half(self) -> bool:
        return self.name != "fp32"

    @property
    def dtype(self) -> Literal["float32", "bfloat16", "float16"]:
        return DTYPES[self.name]

    def convert(self, model: nn.Layer) -> None:
        """Convert the parameters of `model` to 16 bits. Its optimizer has to keep fp32 masters (multi_precision)."""
        if not self.is_half:
            return
        model.to(dtype=self.dtype)
        if self.main_gradients:
            accumulate_in_fp32(model)

    def scaler(self) -> LossScaler | None:
        """A loss scaler for fp16; None in other precisions."""
        return None if self.name != "fp16" else LossScaler(init_loss_scaling=2.0**16)


def resolve_precision(settings: config.Distributed, device: str, world: World) -> Precision:
    """The precision of the settings on `device`, for example "cpu" or "gpu:0". It is the same on all ranks.

    On CPUs, `auto` is bf16 if the processors of all ranks have instructions for it, otherwise fp32. Raises
    SettingsError on all ranks for 16 bits on a CPU for which the kernels cannot be compiled.
    """
    name = settings.precision
    if device == "cpu":
        with world.fail_together():
            name = _on_cpu(name, world)
    elif name == "auto":
        name = "bf16"
    return Precision(name, settings.amp_master_grad)


def _on_cpu(setting: str, world: World) -> str:
    from vilg.distributed.cpu import half

    if setting == "auto":
        instructions = half.bf16_instructions()
        is_fast = instructions is not None and operator.why_no_half_kernels() is None
        setting = "bf16" if all(world.gather(is_fast)) else "fp32"
        log.info("precision: %s", "fp32" if setting == "fp32" else f"bf16, because this processor has {instructions}")
    if setting != "fp32":
        missing = operator.why_no_half_kernels()
        require(missing is None, f"distributed.precision={setting}: the kernels for a CPU are missing: {missing}")
        half.install()
    return setting
