"""Pickled arrays, read without the pickle module."""

import io
import os
import pickle

import numpy as np
import pytest

from vilg.image.importing.numpy_pickles import read_arrays
from vilg.image.importing.pickles import PickleError


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("kind", ["f4", "f8", "i8", "u1", "?", ">f4"])
def test_arrays_round_trip(protocol, kind):
    array = (np.arange(24).reshape(2, 3, 4) % 5).astype(kind)
    tree = {"a": {"b": array, "c": np.asfortranarray(array)}, "d": array[:0]}
    found = read_arrays(io.BytesIO(pickle.dumps(tree, protocol)))
    assert list(found) == ["a/b", "a/c", "d"]
    for name, wanted in (("a/b", array), ("a/c", array), ("d", array[:0])):
        assert np.array_equal(found[name], wanted) and found[name].dtype == wanted.dtype


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("bitten",)


@pytest.mark.parametrize(
    "tree, message",
    [
        ({"a": Malicious()}, "refused: its pickle names '(posix|nt).mkdir'"),
        ({"a": np.array([Malicious()], object)}, "refused"),
        ({"a": np.array([{}], object)}, "an array of O8"),
        ({"a": 3}, "a is no array"),
        (np.zeros(3).dtype, "numpy.dtype is no array"),
    ],
)
def test_anything_but_a_dict_of_arrays_is_refused(tree, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PickleError, match=message):
        read_arrays(io.BytesIO(pickle.dumps(tree, 4)))
    assert not (tmp_path / "bitten").exists()


def test_a_shape_that_does_not_match_its_bytes():
    data = pickle.dumps({"a": np.zeros([2, 3], "f4")}, 3).replace(b"K\x02K\x03", b"K\x02K\x04")
    with pytest.raises(PickleError, match="cannot reshape"):
        read_arrays(io.BytesIO(data))


def test_a_dict_that_contains_itself():
    tree = {}
    tree["a"] = tree
    with pytest.raises(PickleError, match="recursion"):
        read_arrays(io.BytesIO(pickle.dumps(tree, 4)))
