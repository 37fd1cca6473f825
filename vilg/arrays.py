"""From tensors to numpy arrays.

`Tensor.numpy()` of a bf16 tensor returns its bits as uint16, so it is called nowhere else.
"""

import numpy as np
import paddle


def to_numpy(tensor: paddle.Tensor) -> np.ndarray:
    """A copy of the values, of the same type; those of a bf16 tensor, for which numpy has no type, in float32."""
    return (tensor.astype("float32") if tensor.dtype == paddle.bfloat16 else tensor).numpy()


def view_as_numpy(tensor: paddle.Tensor) -> np.ndarray:
    """Like `to_numpy`, but without a copy if the tensor is in host memory and not in bf16.

    The array then changes with the tensor.
    """
    if tensor.dtype == paddle.bfloat16 or not tensor.place.is_cpu_place():
        return to_numpy(tensor)
    return np.from_dlpack(tensor.detach())


def to_bits(tensor: paddle.Tensor) -> np.ndarray:
    """A copy of the values of the same size: those of a bf16 tensor as uint16, which Paddle also takes for bf16."""
    return tensor.numpy()
