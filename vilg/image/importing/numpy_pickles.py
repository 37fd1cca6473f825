"""Reads pickled dicts of numpy arrays as data (pickles.py), without importing any class."""

from typing import Any, BinaryIO

import numpy as np

from vilg.image.importing import pickles
from vilg.image.importing.pickles import PickleError, Record, Vocabulary

# numpy 2 has moved the function that creates an empty array.
_MAKERS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_NAMES = {*_MAKERS, "numpy.ndarray", "numpy.dtype"}
_TYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}


def read_arrays(stream: BinaryIO) -> dict[str, np.ndarray]:
    """{path: array} of a pickle with nested dicts of numeric arrays; keys are joined by slashes. Raises PickleError."""
    tree = pickles.read(stream, Vocabulary({}, _NAMES.__contains__))
    try:
        return dict(_flat(tree, ""))
    except (ValueError, TypeError, AttributeError, RecursionError) as fault:
        raise PickleError(f"damaged pickle ({fault})") from None


def _flat(tree: Any, path: str):
    if isinstance(tree, Record):
        yield path, _array(tree)
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from _flat(value, f"{path}/{key}".removeprefix("/"))
    else:
        raise TypeError(f"{path or 'the whole'} is no array")


def _array(record: Record) -> np.ndarray:
    """An array from the arguments of ndarray.__setstate__: (version, shape, type, is_fortran, bytes)."""
    if record.kind not in _MAKERS:
        raise TypeError(f"{record.kind} is no array")
    _, shape, kind, by_columns, data = record.state
    (code, *_), (_, order, *_) = kind.arguments, kind.state
    if code not in _TYPES or type(data) is not bytes:
        raise TypeError(f"an array of {code}")
    flat = np.frombuffer(data, np.dtype(code).newbyteorder("<" if order == "|" else order))
    return flat.reshape(shape, order="F" if by_columns else "C")
