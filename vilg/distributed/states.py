"""The elements of parameters and optimizer moments that a rank holds, under the parameter names of the model.

Whatever a sharding stage does to a parameter, here it is a flat range of the original tensor. Checkpoints are written
from such ranges, and ranks with other ranges can load them.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import partial

import numpy as np
import paddle

from vilg.arrays import to_numpy, view_as_numpy

MOMENTS = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")
_PER_PARAMETER = ("beta1_pow_acc", "beta2_pow_acc")  # one value for each parameter, equal on all ranks


@dataclass(frozen=True)
class TensorShard:
    """Elements [start, stop) of the flattened tensor `name` with global shape `shape`.

    holders: the ranks that hold identical copies. read() returns the elements as a flat array of type `dtype`, possibly
    as a view of memory that the next step changes.
    """

    name: str
    shape: list[int]
    dtype: str
    start: int
    stop: int
    holders: tuple[int, ...]
    read: Callable[[], np.ndarray]


def replicated(name: str, array: np.ndarray, ranks: int) -> TensorShard:
    """The shard of an array that every rank holds completely."""
    return TensorShard(
        name, list(array.shape), str(array.dtype), 0, array.size, tuple(range(ranks)), lambda: array.ravel()
    )


@dataclass(frozen=True)
class ShardedParameter:
    """Where a rank stores its part of one parameter.

    key: name of the parameter in the optimizer. tensors: tensors that hold elements [start, stop), flat or not,
    possibly padded at the end; the first one is the most precise. holders: the ranks that update these elements and
    therefore hold their moments; in stages 1 and 2 this rank need not be one of them. trained: False for a frozen
    parameter, which has no moments.
    """

    name: str
    key: str
    shape: list[int]
    tensors: list[paddle.Tensor]
    start: int
    stop: int
    holders: tuple[int, ...]
    trained: bool = True

    @property
    def padded_size(self) -> int:
        """Number of elements including the padding."""
        return self.tensors[0].size

    def write(self, values: np.ndarray) -> None:
        """Set the elements in place, because parameters can be views of a larger buffer."""
        padded = np.zeros(self.padded_size, np.float32)
        padded[: len(values)] = values
        for tensor in self.tensors:
            tensor.set_value(paddle.to_tensor(padded.reshape(tensor.shape)).astype(tensor.dtype))


def tensor_shards(
    parameters: list[ShardedParameter], optimizer: paddle.optimizer.Optimizer, rank: int
) -> list[TensorShard]:
    """The parameters and moments that this rank holds: `model/NAME`, `moment1/NAME`, .."""
    states = optimizer.state_dict()
    result = []
    for parameter in parameters:
        if rank not in parameter.holders:
            continue
        result.append(tensor_shard(f"model/{parameter.name}", parameter, parameter.tensors[0]))
        for moment in MOMENTS if parameter.trained else ():
            tensor = states.get(_moment_name(parameter, optimizer, moment))
            if tensor is None:  # the optimizer creates moments in its first step
                tensor = paddle.to_tensor(_initial_moment(parameter, optimizer, moment))
            if moment in _PER_PARAMETER:
                if parameter.start == 0:
                    result.append(
                        TensorShard(
                            f"{moment}/{parameter.name}",
                            [1],
                            "float32",
                            0,
                            1,
                            parameter.holders,
                            partial(to_numpy, tensor),
                        )
                    )
            else:
                result.append(tensor_shard(f"{moment}/{parameter.name}", parameter, tensor))
    return result


def tensor_shard(name: str, parameter: ShardedParameter, tensor: paddle.Tensor) -> TensorShard:
    """The elements of `parameter` that this rank holds, read from `tensor`, which is flat or not and may be padded."""

    def read() -> np.ndarray:
        return view_as_numpy(tensor.astype("float32")).ravel()[: parameter.stop - parameter.start]

    return TensorShard(name, parameter.shape, "float32", parameter.start, parameter.stop, parameter.holders, read)


def _moment_name(parameter: ShardedParameter, optimizer: paddle.optimizer.Optimizer, moment: str) -> str:
    """The name of a moment in the optimizer. AdamW names moments after the master weight if there is one, and a stage
    may have named that after the parameter.
    """
    master = optimizer._master_weights.get(parameter.key)
    return f"{parameter.key if master is None else master.name}_{moment}_0"


def _initial_moment(parameter: ShardedParameter, optimizer: paddle.optimizer.Optimizer, moment: str) -> np.ndarray:
    begin = {"beta1_pow_acc": optimizer._beta1, "beta2_pow_acc": optimizer._beta2}
    size = 1 if moment in _PER_PARAMETER else parameter.padded_size
    return np.full([size], begin.get(moment, 0.0), np.float32)


def shapes(parameters: list[ShardedParameter]) -> dict[str, list[int]]:
    """{name: global shape} of everything that `tensor_shards` returns on all ranks together."""
    expected = {}
    for parameter in parameters:
        expected[f"model/{parameter.name}"] = parameter.shape
        expected |= _moment_shapes(parameter) if parameter.trained else {}
    return expected


def _moment_shapes(parameter: ShardedParameter) -> dict[str, list[int]]:
    return {f"{moment}/{parameter.name}": [1] if moment in _PER_PARAMETER else parameter.shape for moment in MOMENTS}


def match_moments(
    parameters: list[ShardedParameter], stored: dict[str, list[int]]
) -> tuple[dict[str, list[int]], set[str]]:
    """Which moments of a checkpoint with tensors `stored` {name: global shape} are loaded.

    Returns (`stored` without the moments of parameters that are frozen now, names of trained parameters without moments
    in the checkpoint because they were frozen then).
    """
    unused = {name for parameter in parameters if not parameter.trained for name in _moment_shapes(parameter)}
    fresh = {
        parameter.name
        for parameter in parameters
        if parameter.trained and not stored.keys() & _moment_shapes(parameter).keys()
    }
    return {name: shape for name, shape in stored.items() if name not in unused}, fresh


def load(
    parameters: list[ShardedParameter],
    optimizer: paddle.optimizer.Optimizer,
    rank: int,
    read: Callable[[str, int, int], np.ndarray],
    fresh: Container[str] = (),
) -> None:
    """Set everything that this rank holds. read(name, start, stop) returns elements of a flattened tensor.

    fresh: names of parameters whose moments start anew.
    """
    moments = {}
    for parameter in parameters:
        values = read(f"model/{parameter.name}", parameter.start, parameter.stop)
        parameter.write(values)
        if rank not in parameter.holders or not parameter.trained:
            continue
        if (
            parameter.tensors[0].dtype != paddle.float32
        ):  # otherwise the optimizer would create the master from the rounded parameter
            optimizer._create_master_weight(parameter.tensors[0]).set_value(values.reshape(parameter.shape))
        for moment in MOMENTS:
            if parameter.name in fresh:
                values = _initial_moment(parameter, optimizer, moment)
            elif moment in _PER_PARAMETER:
                values = read(f"{moment}/{parameter.name}", 0, 1)
            else:
                values = np.zeros(parameter.padded_size, np.float32)
                values[: parameter.stop - parameter.start] = read(
                    f"{moment}/{parameter.name}", parameter.start, parameter.stop
                )
            if moment not in _PER_PARAMETER:
                values = values.reshape(parameter.tensors[0].shape)
            moments[_moment_name(parameter, optimizer, moment)] = paddle.to_tensor(values)
    optimizer.set_state_dict(moments)
