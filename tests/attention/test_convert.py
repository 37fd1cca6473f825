"""The C interface of the 16-bit types: every value, every instruction set."""

import ctypes

import numpy as np
import pytest

from tests.attention.kernel import library, run_on

FLOAT16, BFLOAT16 = 1, 2  # csrc/element.h


def _pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def widen(kind, bits):
    out = np.full(bits.shape, np.nan, np.float32)
    library().vilg_widen(kind, ctypes.c_int64(bits.size), _pointer(bits), _pointer(out), 2)
    return out


def narrow(kind, values):
    out = np.full(values.shape, 0x1234, np.uint16)
    library().vilg_narrow(kind, ctypes.c_int64(values.size), _pointer(values), _pointer(out), 2)
    return out


def elementwise(name, kind, x, y):
    out = np.zeros_like(x)
    getattr(library(), f"vilg_{name}")(kind, ctypes.c_int64(x.size), _pointer(x), _pointer(y), _pointer(out))
    return out


def bfloat16(values):
    """float32 to the bits of bfloat16, rounded to nearest even, one value at a time."""

    def one(value):
        if np.isnan(value):
            return 0x7FFF
        bits = int(np.float32(value).view(np.uint32))
        high, low = bits >> 16, bits & 0xFFFF
        return high + (low > 0x8000 or (low == 0x8000 and high % 2 == 1))

    return np.array([one(value) for value in values], np.uint16)


def check_all():
    patterns = np.arange(65536, dtype=np.uint16)
    # fp16: numpy has the type. NaN patterns stay NaN; their fraction is not compared.
    expected, found = patterns.view(np.float16).astype(np.float32), widen(FLOAT16, patterns)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
    np.testing.assert_array_equal(widen(BFLOAT16, patterns), (patterns.astype(np.uint32) << 16).view(np.float32))
    for kind in (FLOAT16, BFLOAT16):  # each value survives
        numbers = ~np.isnan(widen(kind, patterns))
        np.testing.assert_array_equal(narrow(kind, widen(kind, patterns))[numbers], patterns[numbers])
        assert np.isnan(widen(kind, narrow(kind, np.array([np.nan, -np.nan], np.float32)))).all()
    rng = np.random.default_rng(0)
    random = rng.integers(0, 2**32, 50_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near_fp16 = (rng.normal(size=50_000) * 2.0 ** rng.integers(-28, 18, 50_000)).astype(np.float32)
    finite = patterns.view(np.float16).astype(np.float32)
    finite = np.unique(finite[np.isfinite(finite)])
    halfway = (finite[1:] + finite[:-1]) / 2  # ties, exact in float32
    with np.errstate(over="ignore"):
        for values in (random[~np.isnan(random)], near_fp16, halfway, np.array([65519.9, 65520, -1e30], np.float32)):
            np.testing.assert_array_equal(narrow(FLOAT16, values), values.astype(np.float16).view(np.uint16))
    ties = ((patterns[:0x7F7F].astype(np.uint32) << 16) + 0x8000).view(np.float32)
    for values in (random, near_fp16, ties):
        np.testing.assert_array_equal(narrow(BFLOAT16, values), bfloat16(values))
    for kind in (FLOAT16, BFLOAT16):
        x, y = narrow(kind, rng.normal(size=5000).astype("f")), narrow(kind, rng.normal(size=5000).astype("f"))
        for name, function in (("add", np.add), ("multiply", np.multiply)):
            expected = narrow(kind, function(widen(kind, x), widen(kind, y)))
            np.testing.assert_array_equal(elementwise(name, kind, x, y), expected)


@pytest.mark.parametrize("isa", ["avx512", "avx2", "plain"])
def test_every_conversion(isa):
    run_on(isa, "from tests.attention.test_convert import check_all\ncheck_all()")


def test_adamw_equals_its_definition():
    """Algorithm 2 of arXiv 1711.05101 in float64, and the weights rounded once."""

    class Step(ctypes.Structure):
        _fields_ = [
            (name, ctypes.c_float)
            for name in ("beta1", "beta2", "epsilon", "beta1_power", "beta2_power", "rate", "decay")
        ]

    rng, count = np.random.default_rng(0), 10_001
    weight, moment1 = (rng.normal(size=count).astype("f") for _ in range(2))
    moment2 = rng.random(count).astype("f")
    exact = [weight.astype("d"), moment1.astype("d"), moment2.astype("d")]
    rounded = np.zeros(count, np.uint16)
    for step in range(1, 4):
        gradient = rng.normal(size=count).astype("f")
        settings = Step(0.9, 0.95, 1e-8, 0.9**step, 0.95**step, 0.01, 0.1)
        buffers = map(_pointer, (gradient, weight, moment1, moment2))
        library().vilg_adamw(ctypes.byref(settings), ctypes.c_int64(count), *buffers, BFLOAT16, _pointer(rounded), 2)
        w, m, v = exact
        m, v = 0.9 * m + 0.1 * gradient, 0.95 * v + 0.05 * gradient.astype("d") ** 2
        size = 0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-8)
        exact = [(1 - 0.01 * 0.1) * w - size, m, v]
    for ours, expected in zip((weight, moment1, moment2), exact, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rounded, narrow(BFLOAT16, weight))
