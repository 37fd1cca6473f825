"""Which elements of which parameter and moment a rank holds, under structured names and in the order of the model.

Whatever a stage does to a parameter, here it is a flat range of the tensor that the model's author named. A checkpoint
is written from such parts, and loaded into them, by ranks that may hold other ranges than those that wrote it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle

MOMENTS = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")
_PER_PARAMETER = ("beta1_pow_acc", "beta2_pow_acc")  # one number a parameter, equal on all ranks


@dataclass(frozen=True)
class TensorShard:
    """Elements [start, stop) of the flattened tensor `name`, whose replicated shape is `shape`.

    holders: the ranks that hold them alike. read() gives them, flat, perhaps as a window on what the next step changes;
    dtype is that of what it gives.
    """

    name: str
    shape: list[int]
    dtype: str
    start: int
    stop: int
    holders: tuple[int, ...]
    read: Callable[[], np.ndarray]


def to_numpy(tensor: paddle.Tensor) -> np.ndarray:
    """The numbers of a tensor in the host's memory: of one that lies there a window on it, and no copy."""
    return np.from_dlpack(tensor.detach()) if tensor.place.is_cpu_place() else tensor.numpy()


def replicated(name: str, array: np.ndarray, ranks: int) -> TensorShard:
    """An array that every rank of the job has."""
    return TensorShard(
        name, list(array.shape), str(array.dtype), 0, array.size, tuple(range(ranks)), lambda: array.ravel()
    )


@dataclass(frozen=True)
class ShardedParameter:
    """Where a rank keeps its part of one parameter.

    key: the parameter's name in the optimizer. tensors: those that hold [start, stop) of its values, flat or not, with
    or without padding behind; the first is the exact one. holders: the ranks that update these values, and so have
    their moments; with stages 1 and 2 this one need not be among them.
    """

    name: str
    key: str
    shape: list[int]
    tensors: list[paddle.Tensor]
    start: int
    stop: int
    holders: tuple[int, ...]

    @property
    def padded_size(self) -> int:
        """Elements with the padding behind them."""
        return self.tensors[0].size

    def write(self, values: np.ndarray) -> None:
        """Set the values in place: parameters may be windows of a larger buffer."""
        padded = np.zeros(self.padded_size, np.float32)
        padded[: len(values)] = values
        for tensor in self.tensors:
            tensor.set_value(paddle.to_tensor(padded.reshape(tensor.shape)).astype(tensor.dtype))


def tensor_shards(held: list[ShardedParameter], optimizer: paddle.optimizer.Optimizer, rank: int) -> list[TensorShard]:
    """The values and moments of all parameters as this rank holds them: `model/NAME`, `moment1/NAME`, .."""
    states = optimizer.state_dict() or _initial_moments(held, optimizer)
    result = []
    for one in held:
        if rank not in one.holders:
            continue
        result.append(_tensor_shard(f"model/{one.name}", one, one.tensors[0]))
        for moment in MOMENTS:
            tensor = states[_moment_name(one, optimizer, moment)]
            if moment in _PER_PARAMETER:
                if one.start == 0:
                    result.append(TensorShard(f"{moment}/{one.name}", [1], "float32", 0, 1, one.holders, tensor.numpy))
            else:
                result.append(_tensor_shard(f"{moment}/{one.name}", one, tensor))
    return result


def _tensor_shard(name: str, held: ShardedParameter, tensor: paddle.Tensor) -> TensorShard:
    def read() -> np.ndarray:
        return to_numpy(tensor.astype("float32")).ravel()[: held.stop - held.start]

    return TensorShard(name, held.shape, "float32", held.start, held.stop, held.holders, read)


def _moment_name(one: ShardedParameter, optimizer: paddle.optimizer.Optimizer, moment: str) -> str:
    """AdamW calls moments after the master, where there is one; a stage may have named that after the parameter."""
    master = optimizer._master_weights.get(one.key)
    return f"{one.key if master is None else master.name}_{moment}_0"


def _initial_moments(held: list[ShardedParameter], optimizer: paddle.optimizer.Optimizer) -> dict[str, paddle.Tensor]:
    """The moments with which an optimizer that has not made a step yet, and so has none, will begin."""
    begin = {"beta1_pow_acc": optimizer._beta1, "beta2_pow_acc": optimizer._beta2}
    return {
        _moment_name(one, optimizer, moment): paddle.full(
            [1] if moment in _PER_PARAMETER else [one.padded_size], begin.get(moment, 0.0)
        )
        for one in held
        for moment in MOMENTS
    }


def shapes(held: list[ShardedParameter]) -> dict[str, list[int]]:
    """The name and the replicated shape of everything that `parts` gives on all ranks together."""
    expected = {}
    for one in held:
        expected[f"model/{one.name}"] = one.shape
        expected |= {f"{moment}/{one.name}": [1] if moment in _PER_PARAMETER else one.shape for moment in MOMENTS}
    return expected


def load(
    held: list[ShardedParameter],
    optimizer: paddle.optimizer.Optimizer,
    rank: int,
    read: Callable[[str, int, int], np.ndarray],
) -> None:
    """Set everything that this rank holds; read(name, start, stop) gives elements of a tensor, flat."""
    moments = {}
    for one in held:
        values = read(f"model/{one.name}", one.start, one.stop)
        one.write(values)
        if rank not in one.holders:
            continue
        if one.tensors[0].dtype != paddle.float32:  # the optimizer would make its master of what was rounded
            optimizer._create_master_weight(one.tensors[0]).set_value(values.reshape(one.shape))
        for moment in MOMENTS:
            if moment in _PER_PARAMETER:
                values = read(f"{moment}/{one.name}", 0, 1)
            else:
                values = np.zeros(one.padded_size, np.float32)
                values[: one.stop - one.start] = read(f"{moment}/{one.name}", one.start, one.stop)
                values = values.reshape(one.tensors[0].shape)
            moments[_moment_name(one, optimizer, moment)] = paddle.to_tensor(values)
    optimizer.set_state_dict(moments)
