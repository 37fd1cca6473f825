"""The weights of the transformer: one safetensors file, and inputs of each of its programs.

Paddle Inference copies the parameters of a program into every predictor that loads it, clones included, but computes
with the memory of its inputs. With weights as inputs, the four programs and all clones share one copy, on disk and in
memory.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import paddle
from paddle import nn
from safetensors import safe_open
from safetensors.numpy import save_file

from vilg.arrays import to_bits


def save_weights(model: nn.Layer, file: Path) -> None:
    """Write the parameters of `model` in their type; those in bf16 as uint16, Paddle's counterpart of it in numpy."""
    save_file({name: to_bits(value) for name, value in model.named_parameters()}, file)


def weights_of(model: nn.Layer, names: list[str]) -> list[paddle.Tensor]:
    """The parameters with these names."""
    own = dict(model.named_parameters())
    return [own[name] for name in names]


class SharedWeights:
    """The tensors of a file that `save_weights` wrote, read at the first call and then shared by all callers.

    file: returns its path. place: where the tensors are. Threads may call it at the same time. Returns the tensors with
    the given names.
    """

    def __init__(self, file: Callable[[], Path], place: paddle.base.core.Place):
        self._file, self._place, self._lock = file, place, threading.Lock()
        self._tensors: dict[str, paddle.Tensor] = {}

    def __call__(self, names: list[str]) -> list[paddle.Tensor]:
        with self._lock:
            if not self._tensors:
                with safe_open(self._file(), "np") as file:
                    for name in file.keys():  # noqa: SIM118  not a dict
                        self._tensors[name] = paddle.to_tensor(file.get_tensor(name), place=self._place)
            return [self._tensors[name] for name in names]


@paddle.jit.not_to_static  # the call, not the computation in the context
@contextmanager
def replaced_weights(model: nn.Layer, names: list[str], weights: list) -> Iterator[None]:
    """In this context, `model` computes with `weights` instead of its parameters `names`, and with zeros instead of the
    others, so that a graph has none of its parameters.
    """
    replaced, own = dict(zip(names, weights, strict=True)), dict(model.named_parameters())
    of_parameter = {id(value): name for name, value in own.items()}
    places = {
        of_parameter[id(value)]: (layer, attribute)
        for layer in model.sublayers(include_self=True)
        for attribute, value in layer._parameters.items()
        if value is not None
    }
    try:
        for name, (layer, attribute) in places.items():
            layer._parameters[attribute] = (
                replaced[name] if name in replaced else paddle.zeros(own[name].shape, own[name].dtype)
            )
        yield
    finally:
        for name, (layer, attribute) in places.items():
            layer._parameters[attribute] = own[name]
