"""A linear layer that computes its bias gradient as a matrix product.

Paddle's reduction over the leading axis, which `nn.Linear` uses for the bias gradient, is very slow on a CPU: it takes
twice as long as the three matrix products of the layer. `ones @ gradient` is the same sum at the speed of a product.
"""

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer


class _Linear(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.needed = [not tensor.stop_gradient for tensor in (x, weight, bias)]  # parameters may be frozen
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensor()
        of_x, of_weight, of_bias = ctx.needed
        rows = gradient.reshape([-1, gradient.shape[-1]])
        ones = paddle.ones([1, rows.shape[0]], rows.dtype)
        return (
            paddle.matmul(gradient, weight, transpose_y=True) if of_x else None,
            paddle.matmul(x.reshape([-1, x.shape[-1]]), rows, transpose_x=True) if of_weight else None,
            paddle.matmul(ones, rows).squeeze(0) if of_bias else None,
        )


class Linear(nn.Linear):
    """x [.., inputs] -> [.., outputs], as `nn.Linear`."""

    def forward(self, x):
        if paddle.in_dynamic_mode() and paddle.is_grad_enabled():
            return _Linear.apply(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)
