"""Fits published weights to our layers, or reports what does not fit."""

from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

from vilg.errors import UserError
from vilg.image.importing.pickles import PickleError
from vilg.image.importing.torch_files import Tensor

Shapes = dict[str, tuple[int, ...]]


def shapes(layer: nn.Layer) -> Shapes:
    """The shape of every weight of `layer`."""
    return {name: tuple(value.shape) for name, value in layer.state_dict().items()}


def arrays(file: Path, stored: dict[str, Any], expected: Shapes, origin: str) -> dict[str, np.ndarray]:
    """The values of `stored` as fp32 arrays. There has to be exactly one tensor for each of `expected`, with its shape.

    Values are read after all names and shapes were checked. Raises UserError; `origin` names the source in it.
    """
    if missing := [name for name in expected if name not in stored]:
        raise UserError(f"{file}: no weight {_listed(missing)}, which {origin} asks for")
    if unknown := [str(name) for name in stored if name not in expected]:
        raise UserError(f"{file}: unknown weight {_listed(unknown)}, for which {origin} has no place")
    for name, shape in expected.items():
        if not isinstance(stored[name], Tensor):
            raise UserError(f"{file}: {name} is no tensor")
        if stored[name].shape != shape:
            raise UserError(f"{file}: {name} has the shape {list(stored[name].shape)}, {origin} asks for {list(shape)}")
    return {name: _array(file, name, stored[name]) for name in expected}


def _listed(names: list[str]) -> str:
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{names[0]}{more}"


def _array(file: Path, name: str, tensor: Tensor) -> np.ndarray:
    try:
        values = tensor.array()
    except PickleError as error:
        raise UserError(f"{file}: {name}: {error}") from None
    if not np.isfinite(values).all():
        raise UserError(f"{file}: {name} has elements that are not finite")
    return values
