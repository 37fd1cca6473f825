"""The C interface of LayerNorm and GELU, which run between the matrix products, against formulas in float64."""

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attention.kernel import library, run_on

EPSILON = 1e-5


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def poisoned(shape):
    return np.full(shape, np.nan, np.float32)


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def layer_norm(x, weight, bias, grad_out, threads=2):
    """{out, grad_x, grad_weight, grad_bias} from the kernel."""
    loaded, (rows, width) = library(), x.shape
    results = {
        "out": poisoned(x.shape),
        "grad_x": poisoned(x.shape),
        "grad_weight": poisoned(width),
        "grad_bias": poisoned(width),
    }
    size = (ctypes.c_int64(rows), ctypes.c_int64(width))
    loaded.vilg_layer_norm_grad_workspace.restype = ctypes.c_int64
    workspace = poisoned(loaded.vilg_layer_norm_grad_workspace(*size))
    loaded.vilg_layer_norm(
        *size, pointer(x), pointer(weight), pointer(bias), ctypes.c_float(EPSILON), pointer(results["out"]), threads
    )
    loaded.vilg_layer_norm_grad(
        *size,
        pointer(x),
        pointer(weight),
        pointer(grad_out),
        ctypes.c_float(EPSILON),
        *(pointer(results[name]) for name in ("grad_x", "grad_weight", "grad_bias")),
        pointer(workspace),
        threads,
    )
    return results


def layer_norm_formulas(x, weight, bias, grad_out):
    x, weight, bias, grad_out = (array.astype(np.float64) for array in (x, weight, bias, grad_out))
    deviation = np.sqrt(x.var(-1, keepdims=True) + EPSILON)
    normal = (x - x.mean(-1, keepdims=True)) / deviation
    weighted = grad_out * weight
    grad_x = weighted - weighted.mean(-1, keepdims=True) - normal * (weighted * normal).mean(-1, keepdims=True)
    return {
        "out": normal * weight + bias,
        "grad_x": grad_x / deviation,
        "grad_weight": (grad_out * normal).sum(0),
        "grad_bias": grad_out.sum(0),
    }


def gelu(x, grad_out, threads=2):
    """(out, grad_x) from the kernel. Each buffer has an extra element at its end, which must stay unchanged."""
    out, grad_x = poisoned(x.size + 1), poisoned(x.size + 1)
    count = ctypes.c_int64(x.size)
    library().vilg_gelu(count, pointer(x), pointer(out), threads)
    library().vilg_gelu_grad(count, pointer(x), pointer(grad_out), pointer(grad_x), threads)
    assert np.isnan(out[-1]) and np.isnan(grad_x[-1])
    return out[:-1], grad_x[:-1]


def gelu_formulas(x, grad_out):
    x, grad_out = x.astype(np.float64), grad_out.astype(np.float64)
    slope = np.sqrt(2 / np.pi)
    tanh = np.tanh(slope * (x + 0.044715 * x**3))
    return x * (1 + tanh) / 2, grad_out * ((1 + tanh) / 2 + x * (1 - tanh**2) / 2 * slope * (1 + 3 * 0.044715 * x**2))


def check_layer_norm(rows, width, seed):
    x, grad_out = random(seed, rows, width) * 3 + 1, random(seed + 1, rows, width)
    weight, bias = random(seed + 2, width), random(seed + 3, width)
    ours, exact = layer_norm(x, weight, bias, grad_out), layer_norm_formulas(x, weight, bias, grad_out)
    for name, array in exact.items():
        assert np.abs(ours[name] - array).max() < 1e-5 * max(1, np.abs(array).max()), name


def check_gelu(count, seed):
    x, grad_out = random(seed, count) * 4, random(seed + 1, count)
    for ours, exact in zip(gelu(x, grad_out), gelu_formulas(x, grad_out)):
        assert np.abs(ours - exact).max() < 2e-6 * max(1, np.abs(exact).max())


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 200), sixteens=st.integers(1, 40), seed=st.integers(0, 1000))
def test_layer_norm_matches_the_formula(rows, sixteens, seed):
    check_layer_norm(rows, 16 * sixteens, seed)


@settings(max_examples=25, deadline=None)
@given(count=st.one_of(st.integers(1, 70), st.integers(8100, 17000)), seed=st.integers(0, 1000))
def test_gelu_matches_the_formula(count, seed):
    check_gelu(count, seed)


def test_gelu_far_from_zero():
    x = np.array([-1e4, -200, -30, -10, -0.0, 0.0, 10, 30, 200, 1e4], np.float32)
    out, slope = gelu(x, np.ones_like(x))
    assert np.allclose(out, np.maximum(x, 0), atol=1e-6) and np.allclose(
        slope, [0, 0, 0, 0, 0.5, 0.5, 1, 1, 1, 1], atol=1e-6
    )


def test_layer_norm_of_constant_rows_is_the_bias():
    x = np.full([3, 32], 7, np.float32)
    ours = layer_norm(x, random(1, 32), random(2, 32), random(3, 3, 32))
    assert np.allclose(ours["out"], random(2, 32)) and np.isfinite(ours["grad_x"]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_inputs_give_non_finite_outputs(bad):
    x = random(0, 4, 32)
    x[1, 5] = bad
    ours = layer_norm(x, random(1, 32), random(2, 32), random(3, 4, 32))
    assert np.isnan(ours["out"][1]).all() and np.isnan(ours["grad_x"][1]).all() and np.isfinite(ours["out"][2]).all()
    assert not np.isfinite(gelu(x.ravel(), x.ravel())[0]).all()


def test_results_do_not_depend_on_the_number_of_threads():
    x, grad_out = random(0, 321, 96), random(1, 321, 96)
    one, two = (layer_norm(x, random(2, 96), random(3, 96), grad_out, threads) for threads in (1, 2))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    for one, two in zip(gelu(x.ravel(), grad_out.ravel(), 1), gelu(x.ravel(), grad_out.ravel(), 2)):
        assert np.array_equal(one, two)


@pytest.mark.parametrize("isa", ["avx2", "plain"])
def test_narrower_instruction_sets(isa):
    run_on(isa, "from tests.attention import test_rows as t\nt.check_layer_norm(77, 80, 0); t.check_gelu(8211, 0)")
