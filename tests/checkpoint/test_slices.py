"""Files of slices: safetensors reads them, ranges are read, and damage is found and located."""

import hashlib

import numpy as np
import pytest
from safetensors.numpy import load_file

from vilg.checkpoint import slices
from vilg.checkpoint.format import BLOCK, CheckpointError
from vilg.checkpoint.slices import SliceReader, TensorChunk
from vilg.checkpoint.storage import LocalStorage

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "uint16", "uint8", "int8", "bool"]


def content(name, array):
    return TensorChunk(name, str(array.dtype), list(array.shape), lambda: array)


def arrays():
    rng = np.random.default_rng(0)
    made = {dtype: (100 * rng.normal(size=37)).astype(dtype) for dtype in DTYPES}
    return made | {
        "中文/weight": np.arange(6, dtype="float32").reshape(2, 3),
        "none": np.zeros([0], "float32"),
        "one": np.array([5], "int64"),
    }


def test_safetensors_reads_the_files(tmp_path):
    file = slices.write(LocalStorage(tmp_path), "x", [content(*item) for item in arrays().items()])
    data = (tmp_path / "x").read_bytes()
    assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    loaded = load_file(tmp_path / "x")
    assert loaded.keys() == arrays().keys()
    for name, array in arrays().items():
        assert loaded[name].dtype == array.dtype and np.array_equal(loaded[name], array)


def test_ranges_are_read(tmp_path):
    slices.write(LocalStorage(tmp_path), "x", [content(*item) for item in arrays().items()])
    opened = SliceReader(LocalStorage(tmp_path), "x")
    for name, array in arrays().items():
        assert np.array_equal(opened.elements(name, 0, array.size), array.ravel())
        if array.size > 4:
            assert np.array_equal(opened.elements(name, 1, 4), array.ravel()[1:4])


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """(folder, File) of two and a half blocks, with tensors that cross block boundaries."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    parts = [content(f"{n}", rng.integers(0, 255, BLOCK * 5 // 6, dtype="uint8")) for n in range(3)]
    return folder, slices.write(LocalStorage(folder), "x", parts)


@pytest.mark.parametrize(
    "place, said",
    [
        (0, (0, BLOCK)),
        (BLOCK - 1, (0, BLOCK)),
        (BLOCK, (BLOCK, 2 * BLOCK)),
        (2 * BLOCK + 5, (2 * BLOCK, None)),
        (-1, (2 * BLOCK, None)),
    ],
)
def test_damage_is_located(large, place, said, tmp_path):
    folder, file = large
    slices.verify_file(LocalStorage(folder), "x", file)
    data = bytearray((folder / "x").read_bytes())
    data[place] ^= 4
    (tmp_path / "x").write_bytes(data)
    first, last = said
    with pytest.raises(CheckpointError, match=f"x: damaged between bytes {first} and {last or file.size}, "):
        slices.verify_file(LocalStorage(tmp_path), "x", file)


def test_writing_large_data_needs_little_memory(tmp_path):
    """Arrays are requested one at a time and released soon."""
    alive, most = [], []

    class Counted(np.ndarray):
        def __del__(self):
            alive.remove(1)

    def read():
        alive.append(1)
        most.append(len(alive))
        return np.zeros(BLOCK // 8, "float64").view(Counted)

    slices.write(LocalStorage(tmp_path), "x", [TensorChunk(f"{n}", "float64", [BLOCK // 8], read) for n in range(12)])
    assert len(most) == 12 and max(most) <= 8
