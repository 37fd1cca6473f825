"""LayerNorm and GELU by the compiled operators, where Paddle's own stand in the way of the matrix products.

On a CPU the gradient of Paddle's LayerNorm takes longer than the attention of the same layer, and its GELU is not cut
up between threads (docs/performance.md). On a GPU, in 16 bits, without the compiled library, or where nothing is
learned, Paddle's own run: an exported model needs no operator for them.
"""

import paddle
import paddle.nn.functional as F
from paddle import _C_ops, nn

from vilg.attention import operator

_WIDTH = 16  # csrc/rows.h: rows of LayerNorm have a multiple of it


def _compiled(x: paddle.Tensor) -> bool:
    return (
        paddle.in_dynamic_mode()
        and paddle.is_grad_enabled()
        and x.place.is_cpu_place()
        and x.dtype == paddle.float32
        and operator.load() is None
    )


class LayerNorm(nn.LayerNorm):
    """x [.., width] -> [.., width], as `nn.LayerNorm` over the last axis."""

    def __init__(self, width: int):
        super().__init__(width)

    def forward(self, x):
        if x.shape[-1] % _WIDTH == 0 and _compiled(x):
            return _C_ops._run_custom_op("vilg_layer_norm", x, self.weight, self.bias, self._epsilon)[0]
        return super().forward(x)


def gelu(x: paddle.Tensor) -> paddle.Tensor:
    """GELU of any shape in its tanh form, as in BERT's own code."""
    if _compiled(x):
        return _C_ops._run_custom_op("vilg_gelu", x)[0]
    return F.gelu(x, approximate=True)
