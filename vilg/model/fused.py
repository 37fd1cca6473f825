"""LayerNorm and GELU with compiled operators, where Paddle's own are slow.

On a CPU the gradient of Paddle's LayerNorm takes longer than the attention of the same layer, and its GELU uses one
thread (docs/performance.md). Paddle's own operators are used on a GPU, in 16 bits, without the compiled library, and
without gradients, so that an exported model needs no custom operator for them.
"""

import paddle
import paddle.nn.functional as F
from paddle import _C_ops, nn

from vilg.attention import operator

_WIDTH = 16  # csrc/rows.h: the width of LayerNorm has to be a multiple of it


def _compiled(x: paddle.Tensor) -> bool:
    return (
        paddle.in_dynamic_mode()
        and paddle.is_grad_enabled()
        and x.place.is_cpu_place()
        and x.dtype == paddle.float32
        and operator.load() is None
    )


class LayerNorm(nn.LayerNorm):
    """x [.., width] -> [.., width], like `nn.LayerNorm` over the last axis."""

    def __init__(self, width: int):
        super().__init__(width)

    def forward(self, x):
        if x.shape[-1] % _WIDTH == 0 and _compiled(x):
            return _C_ops._run_custom_op("vilg_layer_norm", x, self.weight, self.bias, self._epsilon)[0]  # type: ignore[attr-defined]
        return super().forward(x)


def gelu(x: paddle.Tensor) -> paddle.Tensor:
    """GELU of any shape in its tanh form, as in BERT's code."""
    if _compiled(x):
        return _C_ops._run_custom_op("vilg_gelu", x)[0]  # type: ignore[attr-defined]
    return F.gelu(x, approximate=True)
