"""Gradients of 16-bit parameters in fp32.

A gradient of 16 bits loses what the next micro-batch adds if that is 256 times smaller (bf16), and ranks would sum such
gradients. Here each backward pass adds its gradient to the fp32 tensor `main_grad` of the parameter, as in Megatron-LM
(accumulate-allreduce-grads-in-fp32). Paddle's sharding stages, scalers and fused reductions use that attribute if there
is one.
"""

from collections.abc import Callable

import paddle
from paddle import nn
from paddle.distributed.fleet.utils.mix_precision_utils import MixPrecisionOptimizer


def accumulate_in_fp32(model: nn.Layer) -> None:
    """Accumulate the gradients of `model` in `main_grad`. Call it before the stage is built.

    Paddle's MixPrecisionLayer does the same, but not for a model with frozen parameters.
    """
    for parameter in model.parameters():
        parameter.main_grad = None  # stages require the attribute of all parameters or of none
        if not parameter.stop_gradient:
            parameter._register_grad_hook(_add_to_main_gradient(parameter))


def with_main_gradients(optimizer: paddle.optimizer.Optimizer) -> paddle.optimizer.Optimizer:
    """The optimizer that updates from `main_grad`, or `optimizer` if its parameters have none."""
    return MixPrecisionOptimizer(optimizer) if hasattr(optimizer._parameter_list[0], "main_grad") else optimizer


def gradient(parameter: paddle.Tensor) -> paddle.Tensor | None:
    """The accumulated gradient of a parameter."""
    return parameter.main_grad if hasattr(parameter, "main_grad") else parameter.grad


def _add_to_main_gradient(parameter: paddle.Tensor) -> Callable[[paddle.Tensor | None], None]:
    @paddle.no_grad()
    def hook(own: paddle.Tensor | None) -> None:
        if own is None or not own._is_initialized():  # of an operator that returned no gradient
            return
        if parameter.main_grad is None:
            parameter.main_grad = own.astype("float32")
        else:
            parameter.main_grad.add_(own.astype("float32"))
        own._clear_data()  # otherwise Paddle would also accumulate it in the 16-bit `grad`

    return hook
