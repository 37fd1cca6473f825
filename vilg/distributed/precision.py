"""What numbers a model computes in: fp32, or 16 bits with fp32 master weights (Paddle's AMP O2)."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import paddle
from paddle import nn

from vilg.config import require

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Precision:
    """`name` is fp32, bf16 or fp16."""

    name: str

    @property
    def is_half(self) -> bool:
        return self.name != "fp32"

    @property
    def dtype(self) -> str:
        return _DTYPES[self.name]

    def convert(self, model: nn.Layer, optimizer: paddle.optimizer.Optimizer) -> None:
        """Parameters in 16 bits (but with fp16 those of norms), and an fp32 master of each in the optimizer."""
        if self.is_half:
            paddle.amp.decorate(model, optimizer, level="O2", dtype=self.dtype, master_weight=True)

    def autocast(self) -> AbstractContextManager:
        return paddle.amp.auto_cast(self.is_half, level="O2", dtype=self.dtype if self.is_half else "float16")

    def scaler(self) -> paddle.amp.GradScaler | None:
        """fp16 has too few exponents for gradients: their loss is scaled up until a step overflows."""
        return paddle.amp.GradScaler(init_loss_scaling=2.0**16) if self.name == "fp16" else None


def resolve_precision(setting: str, device: str) -> Precision:
    """`auto` is bf16 on a GPU and fp32 on a CPU, whose kernels have no 16 bits: SettingsError if asked for them."""
    if setting == "auto":
        setting = "fp32" if device == "cpu" else "bf16"
    require(
        setting == "fp32" or device != "cpu",
        f"distributed.precision={setting}: Paddle's CPU kernels compute in fp32 only",
    )
    return Precision(setting)
