"""LayerNorm and GELU with compiled operators, where Paddle's own are slow.

On a CPU the gradient of Paddle's LayerNorm takes longer than the attention of the same layer, and its GELU uses one
thread (docs/performance.md). Paddle's own operators are used on a GPU, without the compiled library, and without
gradients, so that an exported model needs no custom operator for them; also in 16 bits, for which the compiled library
adds kernels to Paddle's.
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
    """x [.., width] -> [.., width] in the type of the weights, like `nn.LayerNorm` over the last axis.

    Statistics are in fp32. An fp32 residual stream is normalized in fp32, and the result is rounded.
    """

    def __init__(self, width: int):
        super().__init__(width)

    def forward(self, x):
        assert self.weight is not None and self.bias is not None
        if x.dtype != self.weight.dtype:
            weight, bias = self.weight.astype(x.dtype), self.bias.astype(x.dtype)
            return F.layer_norm(x, x.shape[-1], weight, bias, self._epsilon).astype(self.weight.dtype)
        if x.shape[-1] % _WIDTH == 0 and _compiled(x):
            return _C_ops._run_custom_op("vilg_layer_norm", x, self.weight, self.bias, self._epsilon)[0]  # type: ignore[attr-defined]
        return super().forward(x)


def gelu(x: paddle.Tensor) -> paddle.Tensor:
    """GELU of any shape in its tanh form, as in BERT's code."""
    if _compiled(x):
        return _C_ops._run_custom_op("vilg_gelu", x)[0]  # type: ignore[attr-defined]
    return F.gelu(x, approximate=True)
