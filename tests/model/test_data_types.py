"""The type of every operator of the model in 16 bits: the model chooses it, and autocast would change nothing."""

from collections import Counter

import paddle
import pytest

from vilg import config
from vilg.attention import operator
from vilg.attention.patterns import DIRECTIONS
from vilg.model.loss import summed_nll
from vilg.model.transformer import Transformer, targets

WORDS, CODES, TEXT, GRID = 37, 23, 8, (4, 4)


class Loss(paddle.nn.Layer):
    """The loss of a direction, with or without autocast as a GPU program would use it."""

    def __init__(self, model, direction, autocast, allowed):
        super().__init__()
        self.model, self.direction, self.autocast, self.allowed = model, direction, autocast, allowed

    def forward(self, text, image):
        with paddle.amp.auto_cast(
            self.autocast is not None, self.allowed, level="O2", dtype=self.autocast or "float16"
        ):
            logits = self.model(self.direction, text, image)
            return summed_nll(logits, *targets(self.direction, text, image, WORDS))


def operators(half, fp32_residual, direction, autocast=None, allowed=()):
    """(name, types of the results) of each operator of the graph. It is built and not run."""
    paddle.seed(0)
    switches = {"sandwich_norm": True, "qk_norm": True, "fp32_residual_connection": fp32_residual}
    settings = config.Model(layers=4, hidden=64, heads=2, conv_kernel=3, **switches)
    model = Transformer(settings, WORDS, CODES, TEXT, GRID, config.Attention("blockwise"))
    model.to(dtype=half)
    ids = [paddle.static.InputSpec([2, TEXT], "int64"), paddle.static.InputSpec([2, GRID[0] * GRID[1]], "int64")]
    loss = paddle.jit.to_static(Loss(model, direction, autocast, set(allowed)), full_graph=True, input_spec=ids)
    program = loss.forward.concrete_program.main_program
    return [
        (one.name().removeprefix("pd_op."), tuple(str(result.type()) for result in one.results()))
        for one in program.global_block().ops
    ]


@pytest.fixture(autouse=True, scope="module")
def kernels():
    if operator.why_no_half_kernels():
        pytest.skip(operator.why_no_half_kernels())


@pytest.mark.parametrize(
    "half, fp32_residual, direction",
    [("bfloat16", False, DIRECTIONS[0]), ("bfloat16", True, DIRECTIONS[1]), ("float16", False, DIRECTIONS[1])],
)
def test_autocast_chooses_the_types_of_the_model(half, fp32_residual, direction):
    """Except for embeddings, which Paddle's level O2 computes in fp32 so that all that follows is promoted to it."""
    plain = operators(half, fp32_residual, direction)
    assert operators(half, fp32_residual, direction, half, ("embedding", "lookup_table_v2")) == plain
    changed = Counter(operators(half, fp32_residual, direction, half)) - Counter(plain)
    assert any(name == "embedding" and "f32" in types[0] for name, types in changed)


@pytest.mark.parametrize("fp32_residual", [False, True])
def test_which_operators_compute_in_fp32(fp32_residual):
    """Softmax and the loss; with an fp32 stream also its sums and norms."""
    found = operators("bfloat16", fp32_residual, DIRECTIONS[0])
    wide = Counter(name for name, types in found if types and "f32" in types[0] and "builtin" not in name)
    half = Counter(name for name, types in found if types and "bf16" in types[0])
    assert wide["softmax"] >= 4 and wide["cross_entropy_with_softmax"] == 1
    assert half["matmul"] > 16 and wide["matmul"] == 0
    # Of each block 2 residual connections and 2 norms at its entries, and the last norm.
    assert wide["layer_norm"] == (2 * 4 + 1 if fp32_residual else 0)
    assert half["layer_norm"] == 4 * 4 + (0 if fp32_residual else 2 * 4 + 1)
