"""The exponential moving average (EMA) of the weights: average = decay x average + (1 - decay) x weight, once a step.

It is divided like the optimizer states: a rank averages the elements that it updates, in fp32, and in host memory if
the optimizer's states are there. A step needs no communication for it.
"""

from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import paddle
from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_utils import device_guard

from vilg.distributed.states import ShardedParameter, TensorShard, tensor_shard

PREFIX = "ema/"  # in checkpoints: ema/NAME


class WeightAverage:
    """The averages of the trained parameters that `rank` updates. They start as copies of the weights.

    All methods get the parameters as the stage holds them now, because Paddle replaces some of their tensors.
    """

    def __init__(self, parameters: list[ShardedParameter], rank: int, decay: float):
        self.rank, self.decay = rank, decay
        self._averages: dict[str, paddle.Tensor] = {}
        self.restart(parameters)

    def restart(self, parameters: list[ShardedParameter]) -> None:
        """Start again from the weights."""
        for parameter in self._updated(parameters):
            with _on_device_of(parameter.tensors[0]):
                self._averages[parameter.name] = parameter.tensors[0].detach().astype("float32").clone()

    @paddle.no_grad()
    def update(self, parameters: list[ShardedParameter]) -> None:
        """Include the weights after a step."""
        for parameter in self._updated(parameters):
            with _on_device_of(parameter.tensors[0]):
                weight = parameter.tensors[0].detach().astype("float32")
                self._averages[parameter.name].lerp_(weight, 1 - self.decay)

    @paddle.no_grad()
    def swap(self, parameters: list[ShardedParameter]) -> None:
        """Exchange averages and weights. A second call restores them to the last bit.

        Ranks that hold a parameter without updating it (stages 1 and 2) keep the old one: see `Stage.broadcast`.
        """
        for parameter in self._updated(parameters):
            precise, *others = parameter.tensors
            with _on_device_of(precise):
                average, weight = self._averages[parameter.name], precise.detach().astype("float32").clone()
                self._averages[parameter.name] = weight
                # With offload the other tensor is on the device.
                rounded = [(tensor, average.astype(tensor.dtype)) for tensor in (precise, *others)]
            for tensor, value in rounded:
                tensor.set_value(value._copy_to(tensor.place, True))

    def tensor_shards(self, parameters: list[ShardedParameter]) -> list[TensorShard]:
        """What this rank stores in a checkpoint: `ema/NAME`."""
        return [tensor_shard(PREFIX + one.name, one, self._averages[one.name]) for one in self._updated(parameters)]

    def load(
        self, parameters: list[ShardedParameter], stored: Container[str], read: Callable[[str, int, int], np.ndarray]
    ) -> None:
        """Load from a checkpoint of any number of ranks. An average that is not in `stored` starts from the weight."""
        self.restart(parameters)
        for parameter in self._updated(parameters):
            if PREFIX + parameter.name in stored:
                average = self._averages[parameter.name]
                values = np.zeros(parameter.padded_size, np.float32)
                values[: parameter.stop - parameter.start] = read(
                    PREFIX + parameter.name, parameter.start, parameter.stop
                )
                with _on_device_of(average):
                    average.set_value(paddle.to_tensor(values.reshape(average.shape)))

    @property
    def elements(self) -> int:
        """Elements that this rank stores, including padding."""
        return sum(average.size for average in self._averages.values())

    def _updated(self, parameters: list[ShardedParameter]) -> Iterator[ShardedParameter]:
        return (one for one in parameters if one.trained and self.rank in one.holders)


def _on_device_of(tensor: paddle.Tensor) -> AbstractContextManager:
    """With offload, weights and their averages are in host memory, and computed there."""
    return device_guard(device="cpu") if tensor.place.is_cpu_place() else nullcontext()
