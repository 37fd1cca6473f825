"""Paddle's operators in 16 bits on a CPU compute in fp32 and round once: results and gradients equal those of fp32 on
the rounded inputs, rounded.
"""

import os
import subprocess
import sys

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from vilg.attention import operator
from vilg.attention.functional import block_sparse_attention, packed_attention
from vilg.attention.layout import build
from vilg.attention.patterns import DIRECTIONS, PATTERNS
from vilg.model.fused import LayerNorm, gelu

TYPES = ["bfloat16", "float16"]


@pytest.fixture(autouse=True, scope="module")
def kernels():
    if operator.why_no_half_kernels():
        pytest.skip(operator.why_no_half_kernels())


def random(*shape, seed=0, kind):
    """A 16-bit tensor that needs a gradient."""
    x = paddle.to_tensor(np.random.default_rng(seed + sum(shape)).normal(size=shape).astype("float32")).astype(kind)
    x.stop_gradient = False
    return x


def wide(x):
    """The same values in fp32."""
    y = x.detach().astype("float32")
    y.stop_gradient = x.stop_gradient
    return y


def results(function, inputs):
    """The output and the gradient of each input, for the same gradient of the output."""
    out = function(*inputs)
    grad = paddle.to_tensor(np.random.default_rng(9).normal(size=out.shape).astype("float32")).astype("bfloat16")
    return [out, *paddle.grad(out, inputs, [grad.astype(out.dtype)])]


def check(function, *inputs, ulps=0):
    """ulps: differences allowed in units of the last place, relative to the largest value; 0 for equality."""
    kind = inputs[0].dtype
    ours, expected = results(function, list(inputs)), results(function, [wide(x) for x in inputs])
    for one, two in zip(ours, expected, strict=True):
        assert one.dtype == kind and two.dtype == paddle.float32 and one.shape == two.shape
        rounded = two.astype(kind).astype("float32").numpy()
        if ulps == 0:
            np.testing.assert_array_equal(one.astype("float32").numpy(), rounded)
        else:
            last_place = np.abs(rounded).max() * (2**-8 if kind == paddle.bfloat16 else 2**-11)
            assert np.abs(one.astype("float32").numpy() - rounded).max() <= ulps * last_place


INDEX = [3, 0, 2, 2, 4, 1, 0]
OPERATORS = {
    "add": lambda r: (lambda x, y: x + y, r(37, 41), r(37, 41, seed=1)),
    "add a bias": lambda r: (lambda x, y: x + y, r(3, 70, 33), r(33)),
    "add to a bias": lambda r: (lambda x, y: x + y, r(33), r(3, 70, 33)),
    "add rows and columns": lambda r: (lambda x, y: x + y, r(5, 1, 8), r(1, 6, 8)),
    "add a large bias": lambda r: (lambda x, y: x + y, r(2, 20_000), r(20_000)),
    "subtract": lambda r: (lambda x, y: x - y, r(37, 41), r(37, 41, seed=1)),
    "multiply": lambda r: (lambda x, y: x * y, r(37, 41), r(37, 41, seed=1)),
    "multiply by a scalar": lambda r: (lambda x: x * 0.3, r(37, 41)),
    "divide": lambda r: (lambda x, y: x / (y * y + 1.0), r(9, 5), r(9, 5, seed=1)),
    "softmax": lambda r: (lambda x: F.softmax(x, axis=-1), r(6, 5, 33)),
    "embedding": lambda r: (lambda w: F.embedding(paddle.to_tensor(INDEX * 300), w), r(5, 24)),
    "index_select": lambda r: (lambda x: paddle.index_select(x, paddle.to_tensor(INDEX), axis=1), r(4, 5, 6)),
    "where": lambda r: (
        lambda x, y: paddle.where(paddle.to_tensor([True, False, True]), x, y),
        r(4, 3),
        r(4, 3, seed=1),
    ),
    "concat": lambda r: (lambda x, y: paddle.concat([x, y], axis=1), r(2, 3, 4), r(2, 5, 4)),
    "slice": lambda r: (lambda x: x[:, 2:-1], r(3, 9, 4)),
    "transpose with rows kept": lambda r: (lambda x: x.transpose([1, 2, 0, 3]), r(3, 9, 4, 7)),
    "transpose from the end": lambda r: (lambda x: x.transpose([-3, 0, 2, -1]), r(3, 9, 4, 7)),
    "index_select of rows": lambda r: (lambda x: paddle.index_select(x, paddle.to_tensor([2, 0, 0, -1])), r(4, 5, 6)),
    "transpose": lambda r: (lambda x: x.transpose([0, 2, 1]), r(3, 9, 4)),
    "reshape and flatten": lambda r: (lambda x: x.reshape([3, -1]).flatten(), r(3, 9, 4)),
    "cast": lambda r: (lambda x: (x.astype("float32") * 3.0).astype(x.dtype), r(300, 77)),
    "gelu": lambda r: (gelu, r(70, 99)),
    "exact gelu": lambda r: (F.gelu, r(70, 99)),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_and_its_gradients(name, kind):
    function, *inputs = OPERATORS[name](lambda *shape, seed=0: random(*shape, seed=seed, kind=kind))
    # Of several operators in a row, each rounds; the gradient of softmax is computed from the rounded result.
    check(function, *inputs, ulps={"divide": 2, "softmax": 1, "gelu": 1}.get(name, 0))


PRODUCTS = {
    "matrices": ((70, 33), (33, 41), False, False),
    "a tensor and a matrix": ((3, 70, 33), (33, 41), False, False),
    "second turned": ((3, 70, 33), (41, 33), False, True),
    "first turned": ((33, 70), (33, 41), True, False),
    "both turned": ((33, 70), (41, 33), True, True),
    "first turned, with batches": ((3, 33, 70), (33, 41), True, False),
    "batches": ((3, 2, 20, 33), (3, 2, 33, 41), False, False),
    "batches, second turned": ((3, 2, 20, 33), (3, 2, 41, 33), False, True),
    "repeated batches": ((1, 2, 20, 33), (3, 1, 33, 41), False, False),
    "a row": ((1, 900), (900, 700), False, False),
    "rows": ((6, 1, 90), (6, 90, 35), False, False),
    "rows, second turned": ((6, 1, 90), (6, 35, 90), False, True),
    "columns": ((2, 3, 35, 90), (2, 3, 90, 1), False, False),
    "columns, first turned": ((6, 90, 35), (6, 90, 1), True, False),
    "columns, second turned": ((6, 35, 90), (6, 1, 90), False, True),
    "a small row": ((1, 90), (90, 35), False, False),
    "many small products": ((6, 3, 9), (6, 9, 5), False, False),
    "many rows": ((4100, 20), (20, 130), False, False),
    "a vector": ((33,), (33, 41), False, False),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_matrix_product_and_its_gradients(name, kind):
    first, second, x_turned, y_turned = PRODUCTS[name]
    inputs = random(*first, kind=kind), random(*second, kind=kind)
    check(lambda x, y: paddle.matmul(x, y, x_turned, y_turned), *inputs, ulps=1)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("rows, width", [(7, 48), (200, 64), (5, 20)])
def test_layer_norm_and_its_gradients(kind, rows, width):
    def layer_norm(x, weight, bias):
        return F.layer_norm(x, width, weight, bias)

    check(
        layer_norm,
        random(2, rows, width, kind=kind),
        random(width, kind=kind),
        random(width, seed=1, kind=kind),
        ulps=1,
    )


def test_layer_norm_of_an_fp32_stream():
    """Normalized in fp32; the result has the type of the weights."""
    layer = LayerNorm(32)
    layer.to(dtype="bfloat16")
    x = wide(random(9, 32, kind="bfloat16")) * 100.0
    expected = F.layer_norm(x, 32, layer.weight.astype("float32"), layer.bias.astype("float32")).astype("bfloat16")
    assert layer(x).dtype == paddle.bfloat16
    np.testing.assert_array_equal(layer(x).astype("float32").numpy(), expected.astype("float32").numpy())


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_attention_and_its_gradients(kind, direction, pattern):
    layout = build(direction, pattern, 9, (6, 7), 5)
    q, k, v = (random(2, layout.length, 2, 32, seed=seed, kind=kind) for seed in range(3))
    # The backward pass reads the rounded output.
    check(lambda q, k, v: block_sparse_attention(q, k, v, layout, "operator"), q, k, v, ulps=2)
    packed = random(2, layout.length, 3, 2, 32, kind=kind)
    check(lambda qkv: packed_attention(qkv, layout, "operator"), packed, ulps=2)


@pytest.mark.parametrize("kind", TYPES)
def test_scatter_replaces_rows(kind):
    """Decoding uses it, which needs no gradient. A row outside is an error, not a write outside."""
    x, rows = random(6, 5, 3, kind=kind), random(2, 5, 3, kind=kind)
    with paddle.no_grad():
        expected = paddle.scatter(wide(x), paddle.to_tensor([4, 1]), wide(rows)).numpy()
        np.testing.assert_array_equal(
            paddle.scatter(x, paddle.to_tensor([4, 1]), rows).astype("float32").numpy(), expected
        )
        for function in (
            lambda: paddle.scatter(x, paddle.to_tensor([6]), rows[:1]),
            lambda: paddle.index_select(x, paddle.to_tensor([6])),
        ):
            with pytest.raises((IndexError, ValueError, OSError), match="6 of 6"):
                function()


@pytest.mark.parametrize("kind", TYPES)
def test_the_sum_of_many_gradients_is_in_fp32(kind):
    """A sum in bf16 stops growing at 256: each addend is then less than half of the last place."""
    weight = paddle.ones([2, 16]).astype(kind)
    weight.stop_gradient = False
    F.embedding(paddle.zeros([1000], "int64"), weight).sum().backward()
    np.testing.assert_array_equal(weight.grad.astype("float32").numpy()[0], np.full(16, 1000, "f"))


@pytest.mark.parametrize("kind", TYPES)
def test_cast_to_and_from_other_types(kind):
    x = paddle.to_tensor([1.5, -2.25, 0.0, 300.0])
    for other in ("float64", "int64", "bool", "float16", "bfloat16", "float32"):
        through = x.astype(kind).astype(other)
        assert through.dtype == getattr(paddle, other)
        np.testing.assert_array_equal(
            through.astype("float64").numpy(), x.numpy().astype({"bfloat16": "f"}.get(other, other))
        )
        assert (x.astype(other).dtype, x.astype(other).astype(kind).dtype) == (through.dtype, x.astype(kind).dtype)


def test_adamw_without_master_weights_is_refused():
    layer = paddle.nn.Linear(3, 2)
    layer.to(dtype="bfloat16")
    optimizer = paddle.optimizer.AdamW(0.1, parameters=layer.parameters(), multi_precision=False)
    layer(paddle.ones([1, 3], "bfloat16")).sum().backward()
    with pytest.raises(ValueError, match="AdamW of 16-bit parameters needs master weights"):
        optimizer.step()


def check_products():
    for kind in TYPES:
        for name in PRODUCTS:
            test_a_matrix_product_and_its_gradients(name, kind)


@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE"])
def test_products_on_processors_without_instructions_for_bf16(isa):
    """oneDNN has no bf16 product for AVX2, and emulates it with AVX-512."""
    program = "from tests.attention.test_half_kernels import *; operator.load(); check_products()"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
