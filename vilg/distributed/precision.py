"""Data types of training: fp32, or 16 bits with fp32 master weights (AMP O2 in Paddle)."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import paddle
from paddle import nn

from vilg.config import require

_DTYPES: dict[str, Literal["float32", "bfloat16", "float16"]] = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
}


@dataclass(frozen=True)
class Precision:
    """`name` is fp32, bf16 or fp16."""

    name: str

    @property
    def is_half(self) -> bool:
        return self.name != "fp32"

    @property
    def dtype(self) -> Literal["float32", "bfloat16", "float16"]:
        return _DTYPES[self.name]

    def convert(self, model: nn.Layer, optimizer: paddle.optimizer.Optimizer) -> None:
        """Convert parameters to 16 bits (with fp16, except those of norms) and keep an fp32 master of each in the
        optimizer.
        """
        if self.is_half:
            paddle.amp.decorate(model, optimizer, level="O2", dtype=self.dtype, master_weight=True)

    def autocast(self) -> AbstractContextManager:
        return paddle.amp.auto_cast(self.is_half, level="O2", dtype=self.dtype if self.is_half else "float16")

    def scaler(self) -> paddle.amp.GradScaler | None:
        """A loss scaler for fp16, whose exponent range is too small for gradients. None in other precisions."""
        return paddle.amp.GradScaler(init_loss_scaling=2.0**16) if self.name == "fp16" else None


def resolve_precision(setting: str, device: str) -> Precision:
    """The precision for a setting. `auto` is bf16 on a GPU and fp32 on a CPU.

    Raises SettingsError for 16 bits on a CPU, where Paddle has no 16-bit kernels.
    """
    if setting == "auto":
        setting = "fp32" if device == "cpu" else "bf16"
    require(
        setting == "fp32" or device != "cpu",
        f"distributed.precision={setting}: Paddle's CPU kernels compute in fp32 only",
    )
    return Precision(setting)
