"""Arrays that programs of any kind can read: run at once, traced, or saved."""

from functools import cached_property

import numpy as np
import paddle


class Constant:
    """`tensor()` is one shared tensor while programs run at once, and a constant of the graph while one is traced:
    a traced program that reads a tensor from outside cannot be saved."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def tensor(self) -> paddle.Tensor:
        return self._shared if paddle.in_dynamic_mode() else paddle.assign(self.array)

    @cached_property
    def _shared(self) -> paddle.Tensor:
        return paddle.to_tensor(self.array)
