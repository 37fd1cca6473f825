"""The attention functions with every backend: eager, with gradients, recomputed, traced, saved, in the predictor."""

import logging
import os
import subprocess
import sys

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import inference, nn
from paddle.distributed.fleet.utils import recompute

from tests.attention.kernel import Inputs, error, formulas, tolerance
from vilg.attention import functional, layout
from vilg.attention.functional import block_sparse_attention, packed_attention
from vilg.attention.patterns import DIRECTIONS, PATTERNS
from vilg.errors import UserError

BACKENDS = ("operator", "blockwise", "dense")
LAYOUT = layout.build("text_to_image", "conv", 5, (4, 6), 3)


def by_paddle(inputs, made, backend):
    q, k, v = (paddle.to_tensor(x, stop_gradient=False) for x in (inputs.q, inputs.k, inputs.v))
    out = block_sparse_attention(q, k, v, made, backend)
    out.backward(paddle.to_tensor(inputs.grad_out))
    return {"out": out.numpy(), "grad_q": q.grad.numpy(), "grad_k": k.grad.numpy(), "grad_v": v.grad.numpy()}


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    direction=st.sampled_from(DIRECTIONS),
    pattern=st.sampled_from(PATTERNS),
    text=st.integers(1, 70),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    kernel=st.sampled_from([1, 3, 11]),
    size=st.sampled_from([32, 64]),
    heads=st.integers(1, 3),
    batch=st.integers(1, 2),
)
@settings(max_examples=25, deadline=None)
def test_forward_and_gradients(backend, direction, pattern, text, height, width, kernel, size, heads, batch):
    made = layout.build(direction, pattern, text, (height, width), kernel)
    inputs = Inputs.random(0, batch, made.length, heads, size)
    visible = made.visible()
    assert error(by_paddle(inputs, made, backend), formulas(inputs, visible)) < tolerance(visible)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_packed_inputs_give_the_same_results_as_separate_ones(backend, direction):
    made = layout.build(direction, "column", 20, (5, 6), 3)
    inputs = Inputs.random(0, 2, made.length, 3, 32)
    qkv = paddle.to_tensor(np.stack([inputs.q, inputs.k, inputs.v], axis=2), stop_gradient=False)
    out = packed_attention(qkv, made, backend)
    out.backward(paddle.to_tensor(inputs.grad_out))
    apart = by_paddle(inputs, made, backend)
    assert np.array_equal(out.numpy(), apart["out"])
    for number, name in enumerate(("grad_q", "grad_k", "grad_v")):
        assert np.array_equal(qkv.grad[:, :, number].numpy(), apart[name])


def test_strided_views_are_read_correctly():
    """With Paddle's strided kernels, as on a GPU, q, k and v are views of one array.

    Runs in its own process, because the flag is read only once.
    """
    program = (
        "import vilg, paddle\n"
        "from vilg.attention import layout\n"
        "from vilg.attention.functional import block_sparse_attention as attend\n"
        "made = layout.build('text_to_image', 'row', 5, (4, 6), 3)\n"
        "results = []\n"
        "for backend in ('operator', 'dense'):\n"
        "    paddle.seed(0)\n"
        "    x = paddle.randn([2, made.length, 3, 2, 32])\n"
        "    x.stop_gradient = False\n"
        "    q, k, v = x.unbind(2)\n"
        "    assert not q.is_contiguous()\n"
        "    out = attend(q, k, v, made, backend)\n"
        "    (out.transpose([0, 2, 1, 3]) ** 2).sum().backward()\n"
        "    results.append((out, x.grad))\n"
        "assert all((a - b).abs().max() < 1e-5 for a, b in zip(*results))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"FLAGS_use_stride_kernel": "1"},
    )
    assert done.returncode == 0, done.stderr


class Small(nn.Layer):
    """Attention between two projections, as in the model, with both functions."""

    def __init__(self, backend):
        super().__init__()
        self.backend = backend
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)

    def forward(self, x):
        qkv = self.qkv(x).reshape([x.shape[0], LAYOUT.length, 3, 2, 32])
        attended = packed_attention(qkv, LAYOUT, self.backend)
        q, k, v = qkv.unbind(2)
        attended = attended + block_sparse_attention(q, k, v, LAYOUT, self.backend)
        return self.out(attended.reshape([x.shape[0], LAYOUT.length, 64]))


@pytest.fixture(params=BACKENDS)
def small_layer(request):
    paddle.seed(0)
    return Small(request.param)


@pytest.fixture
def x():
    paddle.seed(1)
    made = paddle.randn([3, LAYOUT.length, 64])
    made.stop_gradient = False
    return made


def gradient_of(model, call, x):
    model.clear_gradients()
    out = call(x)
    (out**2).sum().backward()
    return out.numpy(), model.qkv.weight.grad.numpy()


@pytest.mark.filterwarnings("ignore:Tensor do not have 'place'")
def test_recompute_and_tracing_give_the_eager_results(small_layer, x):
    out, gradient = gradient_of(small_layer, small_layer, x)
    again, same = gradient_of(small_layer, lambda x: recompute(small_layer, x, use_reentrant=False), x)
    assert np.array_equal(out, again) and np.array_equal(gradient, same)
    traced = paddle.jit.to_static(small_layer, full_graph=True)
    again, same = gradient_of(small_layer, traced, x)
    assert np.abs(out - again).max() < 1e-6 and np.abs(gradient - same).max() < 1e-5 * np.abs(gradient).max()


@pytest.mark.filterwarnings("ignore:Tensor do not have 'place'")
def test_saved_program_gives_the_eager_output_when_loaded_and_in_predictor(small_layer, x, tmp_path):
    small_layer.eval()
    expected = small_layer(x).numpy()
    spec = [paddle.static.InputSpec([None, LAYOUT.length, 64], "float32")]
    paddle.jit.save(paddle.jit.to_static(small_layer, input_spec=spec, full_graph=True), str(tmp_path / "m"))
    assert np.abs(paddle.jit.load(str(tmp_path / "m"))(x).numpy() - expected).max() < 1e-6
    settings = inference.Config(str(tmp_path / "m.json"), str(tmp_path / "m.pdiparams"))
    settings.enable_memory_optim()
    settings.enable_new_executor(True)
    settings.disable_glog_info()
    predictor = inference.create_predictor(settings)
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(x.numpy())
    for _ in range(2):  # the second run reuses memory of the first
        predictor.run()
        out = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
        assert np.abs(out - expected).max() < 1e-6


def test_wrong_sequence_length_is_refused():
    x = paddle.zeros([1, 5, 1, 8])
    with pytest.raises(ValueError, match="5 positions given, the layout has 6"):
        block_sparse_attention(x, x, x, layout.build("text_to_image", "row", 2, (2, 2), 3))


def test_chosen_backend_is_logged_once(caplog):
    functional.choose_backend.cache_clear()
    with caplog.at_level(logging.INFO):
        assert (
            functional.choose_backend("auto", 64, "cpu") == functional.choose_backend("auto", 64, "cpu") == "operator"
        )
        assert functional.choose_backend("auto", 24, "cpu") == "blockwise"
    said = [record.message for record in caplog.records]
    assert said[0] == "attention: the compiled operator"
    assert said[1].startswith("attention: block by block") and "the head size is 24" in said[1] and len(said) == 2


def test_missing_kernel_for_a_device_is_logged(caplog):
    functional.choose_backend.cache_clear()
    with caplog.at_level(logging.INFO):
        assert functional.choose_backend("auto", 64, "xpu:0") == "blockwise"
        assert functional.choose_backend("auto", 96, "gpu:0") == "blockwise"
        assert functional.choose_backend("auto", 64, "gpu:0") == "blockwise"  # this Paddle is built without CUDA
    functional.choose_backend.cache_clear()
    for part in (
        "not for xpu:0",
        "the head size is 96, but the operator supports only 32, 64, 128",
        "not built for CUDA",
    ):
        assert part in caplog.text


@pytest.mark.parametrize(
    "capability, backend", [((8, 9), "operator"), ((9, 0), "operator"), ((7, 5), "blockwise"), ((12, 0), "blockwise")]
)
def test_a_gpu_without_a_kernel_in_the_library_runs_without_the_operator(monkeypatch, caplog, capability, backend):
    monkeypatch.setattr("vilg.attention.operator.load", lambda: None)
    monkeypatch.setattr("vilg.attention.build.has_gpu_kernels", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda device: capability)
    functional.choose_backend.cache_clear()
    with caplog.at_level(logging.INFO):
        assert functional.choose_backend("auto", 32, "gpu:3") == backend
    if backend == "blockwise":
        reason = (
            f"this GPU has compute capability {capability[0]}.{capability[1]}, and the kernels are compiled for sm_80"
        )
        assert reason in caplog.text
        with pytest.raises(UserError, match="attention.backend=operator: this GPU has compute capability"):
            functional.choose_backend("operator", 32, "gpu:3")
    functional.choose_backend.cache_clear()


def test_operator_that_cannot_be_built_is_an_error_only_if_requested(monkeypatch, caplog):
    monkeypatch.setattr("vilg.attention.operator.load", lambda: "there is no C++ compiler (g++)")
    functional.choose_backend.cache_clear()
    with caplog.at_level(logging.INFO):
        assert functional.choose_backend("auto", 64, "cpu") == "blockwise"
    assert "there is no C++ compiler" in caplog.text
    with pytest.raises(UserError, match="attention.backend=operator: there is no C.. compiler"):
        functional.choose_backend("operator", 64, "cpu")
    functional.choose_backend.cache_clear()


@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_of_another_shape_are_refused(backend):
    q = paddle.zeros([1, LAYOUT.length, 1, 32])
    with pytest.raises(ValueError, match="must be of one shape"):
        block_sparse_attention(q, q[:, :, :, :16], q, LAYOUT, backend)


def test_operator_refuses_float64():
    q = paddle.zeros([1, LAYOUT.length, 1, 32], "float64")
    with pytest.raises(OSError, match="the inputs must be float32, float16 or bfloat16"):
        block_sparse_attention(q, q, q, LAYOUT, "operator")
