"""The CUDA kernels: compiled for real GPUs, and run thread by thread on the CPU.

No GPU is needed: tests/attention/emulator replaces the operations of a warp, and nvcc only compiles. These tests do not
show how fast a kernel is, or that a GPU runs it.
"""

import ctypes
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.attention.kernel import GRADIENTS, Inputs, error, formulas
from vilg.attention import build as operator_build
from vilg.attention.layout import build
from vilg.attention.operator import HEAD_SIZES_ON_GPU
from vilg.attention.patterns import DIRECTIONS, PATTERNS
from vilg.attention.tiles import Tiles

SOURCES = Path(operator_build.__file__).parent / "csrc"
EMULATOR = Path(__file__).parent / "emulator"
FLOAT32, FLOAT16, BFLOAT16 = 0, 1, 2
# For rounding of a weight, a gradient and the output: to 11 bits in float16, to 8 bits in bfloat16.
TOLERANCE = {FLOAT32: 1e-5, FLOAT16: 3e-3, BFLOAT16: 2e-2}
NVCC = shutil.which("nvcc")
_PIECE_AT = """
extern "C" int piece_at(int size, int row, int piece) {
  return size == 32 ? vilg_cuda::piece_at<32>(row, piece)
         : size == 64 ? vilg_cuda::piece_at<64>(row, piece) : vilg_cuda::piece_at<128>(row, piece);
}
"""

pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")


class Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "length", "heads", "head_size")] + [
        ("scale", ctypes.c_float),
        ("dtype", ctypes.c_int),
    ]


class PackedLayout(ctypes.Structure):
    _fields_ = [("packed", ctypes.c_void_p), ("header", ctypes.c_int32 * 8)]


class Rows(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("row", ctypes.c_int64)]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """The kernels compiled as a library for the CPU."""
    folder = tmp_path_factory.mktemp("emulated")
    shutil.copytree(SOURCES, folder / "csrc")
    for file in EMULATOR.iterdir():
        shutil.copy(file, folder / "csrc/cuda")
    source = folder / "csrc/cuda/attention.cu"
    source.write_text(source.read_text() + _PIECE_AT)
    library = folder / "emulated.so"
    done = subprocess.run(
        [
            "g++",
            "-x",
            "c++",
            "-std=c++17",
            "-O2",
            "-fPIC",
            "-shared",
            "-w",
            f"-I{operator_build.cuda_root(NVCC) / 'include'}",
            str(source),
            "-o",
            str(library),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded = ctypes.CDLL(str(library))
    loaded.vilg_attention_cuda_backward_workspace.restype = ctypes.c_int64
    return loaded


def encode(x: np.ndarray, dtype: int) -> np.ndarray:
    if dtype != BFLOAT16:
        return x.astype([np.float32, np.float16][dtype])
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)  # rounded to nearest, ties to even


def decode(x: np.ndarray, dtype: int) -> np.ndarray:
    return (x.astype(np.uint32) << 16).view(np.float32) if dtype == BFLOAT16 else x.astype(np.float32)


class Memory:
    """[B, S, H, D] arrays in one buffer, as the packed operator has them: a row holds `arrays` of them side by side.

    `gap` more elements follow each row. They are NaN and must stay so.
    """

    def __init__(self, shape: tuple[int, ...], arrays: int, dtype: int, gap: int = 0):
        self.shape, self.dtype, self.width = shape, dtype, shape[2] * shape[3]
        row = arrays * self.width + gap
        self.elements = encode(np.full([shape[0], shape[1], row], np.nan, np.float32), dtype)
        self.rows = [Rows(self._part(number).ctypes.data, row) for number in range(arrays)]

    def _part(self, number: int) -> np.ndarray:
        return self.elements[..., number * self.width :][..., : self.width]

    def write(self, number: int, values: np.ndarray) -> None:
        self._part(number)[:] = values.reshape(*self.shape[:2], -1)

    def read(self, number: int) -> np.ndarray:
        return decode(self._part(number), self.dtype).reshape(self.shape)

    def gap_is_untouched(self) -> bool:
        return bool(np.isnan(decode(self.elements[..., len(self.rows) * self.width :], self.dtype)).all())


def run(library, by_query: Tiles, by_key: Tiles, inputs: list[np.ndarray], dtype: int) -> dict[str, np.ndarray]:
    """Output and gradients for encoded q, k, v and grad_out.

    q, k and v are in one buffer and their gradients in another. Every result buffer is filled with NaN before the call.
    """
    batch, length, heads, size = inputs[0].shape
    shape = Shape(batch, length, heads, size, size**-0.5, dtype)
    by_query, by_key = by_query.packed(), by_key.packed()

    def packed(array):
        return ctypes.byref(PackedLayout(array.ctypes.data, (ctypes.c_int32 * 8)(*array[:8])))

    qkv, gradients = (Memory(inputs[0].shape, 3, dtype, gap=8) for _ in range(2))
    grad_out, out = (Memory(inputs[0].shape, 1, dtype, gap) for gap in (0, 16))
    for number in range(3):
        qkv.write(number, inputs[number])
    grad_out.write(0, inputs[3])
    lse = np.full([batch, heads, length], np.nan, np.float32)
    code = library.vilg_attention_cuda_forward(
        ctypes.byref(shape), packed(by_query), *qkv.rows, out.rows[0], ctypes.c_void_p(lse.ctypes.data), None
    )
    assert code == 0
    space = np.full(library.vilg_attention_cuda_backward_workspace(ctypes.byref(shape)), np.nan, np.float32)
    code = library.vilg_attention_cuda_backward(
        ctypes.byref(shape),
        packed(by_query),
        packed(by_key),
        *qkv.rows,
        out.rows[0],
        ctypes.c_void_p(lse.ctypes.data),
        grad_out.rows[0],
        *gradients.rows,
        ctypes.c_void_p(space.ctypes.data),
        None,
    )
    assert code == 0
    assert out.gap_is_untouched() and gradients.gap_is_untouched()
    results = [out.read(0), *(gradients.read(number) for number in range(3))]
    return dict(zip(GRADIENTS, results, strict=True))


def tilings(layout) -> tuple[Tiles, Tiles]:
    return layout.tiles(64, 32), layout.tiles(32, 64)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_forward_and_gradients(emulated, pattern, direction, dtype):
    for size, text, grid in ((32, 37, (7, 6)), (64, 37, (7, 6)), (128, 5, (4, 6))):
        layout = build(direction, pattern, text, grid, 5)
        drawn = Inputs.random(0, 1, layout.length, 1, size)
        encoded = [encode(x, dtype) for x in (drawn.q, drawn.k, drawn.v, drawn.grad_out)]
        exact = formulas(Inputs(*(decode(x, dtype) for x in encoded)), layout.visible())
        assert error(run(emulated, *tilings(layout), encoded, dtype), exact) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16])
@pytest.mark.parametrize("size", HEAD_SIZES_ON_GPU)
def test_samples_and_heads_are_kept_apart(emulated, size, dtype):
    """Two samples of three heads in packed rows: a wrong distance between samples, positions or heads is seen."""
    layout = build("image_to_text", "column", 5, (7, 6), 5)
    drawn = Inputs.random(0, 2, layout.length, 3, size)
    encoded = [encode(x, dtype) for x in (drawn.q, drawn.k, drawn.v, drawn.grad_out)]
    exact = formulas(Inputs(*(decode(x, dtype) for x in encoded)), layout.visible())
    assert error(run(emulated, *tilings(layout), encoded, dtype), exact) < TOLERANCE[dtype]


@pytest.mark.parametrize("size", [16, 80, 96])
def test_other_head_sizes_are_refused(emulated, size):
    layout = build("text_to_image", "row", 5, (4, 6), 5)
    drawn = Inputs.random(0, 1, layout.length, 1, size)
    with pytest.raises(AssertionError):
        run(emulated, *tilings(layout), [drawn.q, drawn.k, drawn.v, drawn.grad_out], FLOAT32)


def test_swizzled_rows_of_shared_memory_are_in_different_banks(emulated):
    """Eight consecutive rows are read at once: the same piece of each must be in another group of banks."""
    for size in HEAD_SIZES_ON_GPU:
        pieces = size // 8
        places = np.array([[emulated.piece_at(size, row, piece) // 8 for piece in range(pieces)] for row in range(64)])
        assert sorted(places.ravel()) == list(range(64 * pieces)), "every piece has a place of its own"
        for start in range(0, 64, 8):
            assert all(len(set(places[start : start + 8, piece] % 8)) == 8 for piece in range(pieces))


@pytest.mark.parametrize("side", [0, 1])
def test_one_wrong_mask_bit_is_detected(emulated, side):
    """The wrong bit is in the tiles of the forward pass and dQ (side 0), or in those of dK and dV (side 1)."""
    layout = build("text_to_image", "row", 37, (7, 6), 5)
    drawn = Inputs.random(0, 1, layout.length, 1, 64)
    inputs = [drawn.q, drawn.k, drawn.v, drawn.grad_out]
    tiles = list(tilings(layout))
    masks = tiles[side].masks.copy()
    masks[-1, 1, 0] ^= 1 << 7
    tiles[side] = replace(tiles[side], masks=masks)
    assert error(run(emulated, *tiles, inputs, FLOAT32), formulas(drawn, layout.visible())) > 1e-3


@pytest.mark.timeout(240)
def test_the_binding_compiles_links_and_registers_with_the_cpu_wheel(tmp_path):
    """Runs in its own process, because an operator name can be registered only once.

    On the CPU, the operator computes the same as in a build without CUDA.
    """
    program = (
        "import sys, vilg, paddle\n"
        "from pathlib import Path\n"
        "from vilg.attention import build, layout\n"
        "from vilg.attention.functional import block_sparse_attention as attend\n"
        "from paddle.utils.cpp_extension.extension_utils import load_op_meta_info_and_register_op\n"
        "build.build(Path(sys.argv[1]), sys.argv[2])\n"
        "names = load_op_meta_info_and_register_op(f'{sys.argv[1]}/{build.LIBRARY}')\n"
        "made = layout.build('text_to_image', 'row', 5, (4, 6), 3)\n"
        "x = paddle.randn([1, made.length, 2, 64])\n"
        "difference = attend(x, x, x, made, 'operator') - attend(x, x, x, made, 'dense')\n"
        "assert difference.abs().max() < 1e-5\n"
        "print(*names)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path), NVCC], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {
        "vilg_block_sparse_attention",
        "vilg_packed_attention",
        "vilg_layer_norm",
        "vilg_gelu",
    }


@pytest.mark.parametrize("architecture", ["80", "90a"])
def test_compiles_for_real_gpus(architecture, tmp_path):
    done = subprocess.run(
        [
            NVCC,
            "-std=c++17",
            "-O3",
            "-gencode",
            f"arch=compute_{architecture},code=sm_{architecture}",
            "-Xcompiler",
            "-fPIC",
            "-Xptxas",
            "-v",
            "-c",
            str(SOURCES / "cuda/attention.cu"),
            "-o",
            str(tmp_path / "attention.o"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    spilled = [line for line in done.stderr.splitlines() if "spill" in line and " 0 bytes spill stores" not in line]
    assert not spilled, "registers go to memory"
