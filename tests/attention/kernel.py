"""Calls the C interface of the CPU kernel with every buffer set to NaN, and has the formulas in float64."""

import ctypes
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

import vilg  # noqa: F401  sets what must be set before the library loads OpenMP
from vilg.attention import build
from vilg.attention.tiles import Tiles

GRADIENTS = ("out", "grad_q", "grad_k", "grad_v")


class Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "length", "heads", "head_size")] + [
        ("scale", ctypes.c_float)
    ]


def library() -> ctypes.CDLL:
    import paddle  # noqa: F401  the library is linked against it

    loaded = ctypes.CDLL(str(build.built()))
    for name in ("forward", "backward"):
        getattr(loaded, f"vilg_attention_{name}_workspace").restype = ctypes.c_int64
    loaded.vilg_attention_isa.restype = loaded.vilg_attention_error.restype = ctypes.c_char_p
    return loaded


def run_on(isa: str, program: str) -> None:
    """Run `program` with the kernels of one instruction set.

    It runs in its own process, because the instruction set is chosen only once. The test is skipped if this processor
    lacks the instruction set.
    """
    program += "\nfrom tests.attention.kernel import library\nprint(library().vilg_attention_isa().decode())"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"VILG_ATTENTION_ISA": isa},
    )
    assert done.returncode == 0, done.stderr
    if isa not in done.stdout.split():
        pytest.skip(f"this processor has no {isa}")


@dataclass
class Inputs:
    """q, k, v and the gradient of the output, float32 [B, S, H, D]."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    grad_out: np.ndarray

    @classmethod
    def random(cls, seed: int, batch: int, length: int, heads: int, size: int) -> "Inputs":
        rng = np.random.default_rng(seed)
        return cls(*(rng.standard_normal([batch, length, heads, size]).astype(np.float32) for _ in range(4)))


def compiled(inputs: Inputs, packed: np.ndarray, threads: int = 2, wider: int = 0) -> dict[str, np.ndarray]:
    """Output and gradients from the kernel.

    wider: number of extra floats between two positions, which must stay unchanged.
    """
    loaded = library()
    batch, length, heads, size = inputs.q.shape
    shape = Shape(batch, length, heads, size, size**-0.5)
    layout = (ctypes.byref(shape), _pointer(packed), ctypes.c_int64(len(packed)))

    def spread(array=None):  # [B, S, H D + wider], NaN where no value is given
        wide = np.full([batch, length, heads * size + wider], np.nan, np.float32)
        if array is not None:
            wide[..., : heads * size] = array.reshape(batch, length, -1)
        return wide

    def workspace(name):
        floats = getattr(loaded, f"vilg_attention_{name}_workspace")(*layout, threads)
        return np.full(floats, np.nan, np.float32)

    def row(array):
        return _pointer(array), ctypes.c_int64(heads * size + wider)

    q, k, v, grad_out = map(spread, (inputs.q, inputs.k, inputs.v, inputs.grad_out))
    out, grad_q, grad_k, grad_v = (spread() for _ in range(4))
    lse = np.full([batch, heads, length], np.nan, np.float32)
    space = workspace("forward")
    succeed(
        loaded.vilg_attention_forward(
            *layout, *row(q), *row(k), *row(v), *row(out), _pointer(lse), _pointer(space), threads
        )
    )
    space = workspace("backward")
    succeed(
        loaded.vilg_attention_backward(
            *layout,
            *row(q),
            *row(k),
            *row(v),
            *row(out),
            _pointer(lse),
            *row(grad_out),
            *row(grad_q),
            *row(grad_k),
            *row(grad_v),
            _pointer(space),
            threads,
        )
    )
    results = dict(zip(GRADIENTS, (out, grad_q, grad_k, grad_v), strict=True))
    if wider:
        assert all(np.isnan(array[..., heads * size :]).all() for array in results.values())
    return {name: array[..., : heads * size].reshape(inputs.q.shape) for name, array in results.items()}


def succeed(code: int) -> None:
    assert code == 0, library().vilg_attention_error(code).decode()


def formulas(inputs: Inputs, visible: np.ndarray) -> dict[str, np.ndarray]:
    """softmax(Q K^T / sqrt(D)) V and its gradients in float64, every score computed."""
    q, k, v, grad_out = (
        x.astype(np.float64).transpose(0, 2, 1, 3) for x in (inputs.q, inputs.k, inputs.v, inputs.grad_out)
    )
    scale = q.shape[-1] ** -0.5
    scores = np.where(visible, q @ k.swapaxes(-1, -2) * scale, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = weights @ v
    grad_weights = grad_out @ v.swapaxes(-1, -2)
    grad_scores = weights * (grad_weights - (grad_out * out).sum(-1, keepdims=True))
    results = (
        out,
        grad_scores @ k * scale,
        grad_scores.swapaxes(-1, -2) @ q * scale,
        weights.swapaxes(-1, -2) @ grad_out,
    )
    return {name: x.transpose(0, 2, 1, 3) for name, x in zip(GRADIENTS, results, strict=True)}


def error(ours: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> float:
    """The largest difference in the output and the gradients, each relative to its own largest element.

    NaN if any element is NaN, which the built-in `max` would pass over.
    """
    return float(np.max([np.abs(ours[name] - exact[name]).max() / np.abs(exact[name]).max() for name in GRADIENTS]))


def tolerance(visible: np.ndarray) -> float:
    """The limit for `error` in fp32.

    The gradient of a query that sees only itself is a difference of equal values: zero except for their rounding. If
    most queries are of this kind (a window of one), these values are 20 to 60 times the largest remaining gradient.
    """
    return 1e-4 if (visible.sum(1) == 1).any() else 1e-5


def visibility_from_tiles(tiles: Tiles) -> np.ndarray:
    """bool [S, S], reconstructed from the tiles by query, which are the input of the kernel."""
    seen = np.zeros([len(tiles.order)] * 2, bool)
    for block in range(len(tiles.by_query)):
        for tile in range(tiles.by_query.starts[block], tiles.by_query.starts[block + 1]):
            other, kind = tiles.by_query.others[tile], tiles.by_query.kinds[tile]
            bits = np.full([tiles.keys, tiles.queries // 32], 2**32 - 1, np.uint32) if kind < 0 else tiles.masks[kind]
            cells = (bits[:, :, None] >> np.arange(32, dtype=np.uint32) & 1).reshape(tiles.keys, tiles.queries)
            seen[block * tiles.queries :][: tiles.queries, other * tiles.keys :][:, : tiles.keys] = cells.T
    there = np.flatnonzero(tiles.order >= 0)
    result = np.zeros([tiles.length] * 2, bool)
    result[np.ix_(tiles.order[there], tiles.order[there])] = seen[np.ix_(there, there)]
    return result


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)
