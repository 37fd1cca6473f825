"""Training in 16 bits on one process: masters, main gradients, loss scaling, and checkpoints of other precisions."""

import json
from functools import partial

import numpy as np
import paddle
import pytest

from vilg import config
from vilg.attention import operator
from vilg.attention.patterns import DIRECTIONS
from vilg.distributed.engine import Engine
from vilg.distributed.world import World
from vilg.model.loss import summed_nll
from vilg.model.transformer import Transformer, targets
from vilg.training.optimizer import adamw

WORDS, CODES, TEXT, GRID, BATCH = 37, 23, 8, (4, 4), 4
HALF = {"bf16": paddle.bfloat16, "fp16": paddle.float16}


@pytest.fixture(autouse=True, scope="module")
def kernels():
    if operator.why_no_half_kernels():
        pytest.skip(operator.why_no_half_kernels())


def engine(precision, model=(), lr=2e-3, **settings) -> Engine:
    paddle.seed(3)
    sizes = {"layers": 3, "hidden": 64, "heads": 2, "conv_kernel": 3} | dict(model)
    made = Transformer(config.Model(**sizes), WORDS, CODES, TEXT, GRID)
    train = config.Train(lr=lr, weight_decay=0.1)
    return Engine(World(), made, partial(adamw, train), 1.0, config.Distributed(precision=precision, **settings))


def losses(step, model):
    rng = np.random.default_rng(step % 4)  # few batches, so that they are learned
    text = paddle.to_tensor(rng.integers(0, WORDS, [BATCH, TEXT]))
    image = paddle.to_tensor(rng.integers(0, CODES, [BATCH, GRID[0] * GRID[1]]))
    for direction in DIRECTIONS:
        yield direction, summed_nll(model(direction, text, image), *targets(direction, text, image, WORDS))


def train(engine, steps, begin=0, lr=2e-3):
    """[steps, 3]: both losses and the gradient norm."""
    lines = []
    for step in range(begin, begin + steps):
        values = engine.micro_step(partial(losses, step), dict.fromkeys(DIRECTIONS, 1 / (BATCH * 16)))
        lines.append([*values.values(), engine.step(lr)])
    return np.array(lines)


def states(engine):
    return {one.name: np.array(one.read()) for one in engine.state()}


def restore(engine, saved):
    shapes = {one.name: one.shape for one in engine.state()}
    engine.load_state(shapes, lambda name, start, stop: saved[name][start:stop])


@pytest.mark.parametrize(
    "model, lr",
    [({}, 3e-4), ({"fp32_residual_connection": True}, 3e-4), ({"sandwich_norm": True, "qk_norm": True}, 1e-4)],
)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_fifty_steps_have_the_losses_of_fp32(precision, model, lr):
    """The model with more norms learns faster, and at a higher rate soon differs from itself after any rounding."""
    other = engine(precision, model)
    if precision == "fp16":
        other.loss_scale = other.loss_scale | {"scale": [1024.0]}  # no step is skipped
    whole, half = train(engine("fp32", model), 50, lr=lr), train(other, 50, lr=lr)
    assert (whole[-1] < 0.9 * whole[0])[:2].all()  # something is learned
    assert np.abs(half / whole - 1)[:, :2].max() < 0.01
    assert (half != whole).any()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_parameters_are_rounded_masters_after_every_step(precision):
    made = engine(precision)
    for step in range(5):
        train(made, 1, step)
        for one in made._sharded_parameters():
            master, rounded = one.tensors
            assert (master.dtype, rounded.dtype) == (paddle.float32, HALF[precision])
            assert bool((master.astype(rounded.dtype) == rounded).all()), one.name
            assert (master != rounded.astype("float32")).any()  # it has more digits
        moments = [value for name, value in made._optimizer.state_dict().items() if "_moment" in name]
        assert len(moments) == 2 * len(made._parameters) and all(one.dtype == paddle.float32 for one in moments)


def test_small_updates_need_masters():
    """Without masters, weights cannot change by less than a 256th of their size."""
    made = engine("bf16", lr=1e-6)
    before = states(made)["model/blocks.0.mlp.out.weight"]
    rounded = made._parameters["blocks.0.mlp.out.weight"].astype("float32").numpy()
    train(made, 3, lr=1e-6)
    moved = states(made)["model/blocks.0.mlp.out.weight"] - before
    assert (moved != 0).mean() > 0.99
    now = made._parameters["blocks.0.mlp.out.weight"].astype("float32").numpy()
    assert (now == rounded).mean() > 0.9  # what training without masters would have


def test_a_thousand_tiny_gradients_do_not_vanish():
    """Added to a large one in fp32. In bf16 none of them would change the sum."""

    def accumulated(amp_master_grad):
        made = engine("bf16", amp_master_grad=amp_master_grad)
        weight = made._parameters["norm.bias"]

        def one(size, model):
            yield "loss", (weight * paddle.full(weight.shape, size, weight.dtype)).astype("float32").sum()

        for size in [1.0] + [2.0**-10] * 1000:
            made.micro_step(partial(one, size), {"loss": 1.0})
        made.gradient_norm()
        return float((weight.main_grad if amp_master_grad else weight.grad).astype("float32").mean())

    assert accumulated(True) == 1 + 1000 * 2.0**-10
    assert accumulated(False) == 1.0


def test_frozen_parameters_have_no_main_gradient():
    paddle.seed(0)
    model = Transformer(config.Model(layers=1, hidden=32, heads=1, conv_kernel=3), WORDS, CODES, TEXT, GRID)
    model.train_only([DIRECTIONS[0]])
    made = Engine(World(), model, partial(adamw, config.Train()), 1.0, config.Distributed(precision="bf16"))
    made.micro_step(lambda model: list(losses(0, model))[:1], dict.fromkeys(DIRECTIONS, 1.0))
    assert made.step(1e-3) > 0
    assert model.text_head.weight.main_grad is None and model.image_head.weight.main_grad is not None
    assert model.text_head.weight.dtype == paddle.bfloat16


def overflow(made):
    """The next gradient exceeds fp16."""
    made.loss_scale = made.loss_scale | {"scale": [2.0**24]}


def test_a_step_that_overflows_is_skipped_and_halves_the_scale():
    made = engine("fp16")
    overflow(made)
    before = states(made)
    line = train(made, 1)
    assert np.isfinite(line[0, :2]).all()
    assert made.loss_scale["scale"] == [2.0**23]
    after = states(made)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    train(made, 12)
    assert 2.0**11 < made.loss_scale["scale"][0] < 2.0**20  # halved until the gradients fit
    assert not np.array_equal(states(made)["model/norm.weight"], before["model/norm.weight"])


def test_the_scale_grows_after_its_interval():
    made = engine("fp16")
    made.stage.scaler.set_incr_every_n_steps(3)
    train(made, 3)
    assert made.loss_scale["scale"] == [2.0**17]


def test_the_scale_and_its_counters_are_resumed():
    made = engine("fp16")
    made.loss_scale = made.loss_scale | {"scale": [1024.0]}
    train(made, 4)
    saved, scale = states(made), json.loads(json.dumps(made.loss_scale))  # as a manifest stores it
    assert scale["scale"] == [1024.0] and scale["incr_count"] == 4
    rest = train(made, 4, 4)
    again = engine("fp16")
    restore(again, saved)
    again.loss_scale = scale
    assert again.loss_scale == scale
    np.testing.assert_array_equal(train(again, 4, 4), rest)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_resumed_run_is_equal_to_the_last_bit(precision):
    made = engine(precision)
    train(made, 5)
    saved, rest, again = states(made), train(made, 5, 5), engine(precision)
    restore(again, saved)
    assert all(np.array_equal(value, saved[name]) for name, value in states(again).items())
    np.testing.assert_array_equal(train(again, 5, 5), rest)


def test_from_bf16_to_fp32_and_back():
    """Checkpoints contain masters, so nothing is lost on the way."""
    made = engine("bf16")
    train(made, 3)
    saved = states(made)
    for precision in ("fp32", "fp16", "bf16"):
        other = engine(precision)
        restore(other, saved)
        through = states(other)
        assert all(np.array_equal(value, saved[name]) for name, value in through.items())
        saved = through
    np.testing.assert_array_equal(train(other, 3, 3), train(made, 3, 3))


def test_an_fp32_stream_is_rounded_less():
    """The states of the last layer are closer to those of fp32."""
    sizes = {"layers": 24, "hidden": 64, "heads": 2}

    def last_states(precision, **more):
        made = engine(precision, sizes | more)
        rng = np.random.default_rng(0)
        text = paddle.to_tensor(rng.integers(0, WORDS, [BATCH, TEXT]))
        image = paddle.to_tensor(rng.integers(0, CODES, [BATCH, GRID[0] * GRID[1]]))
        with paddle.no_grad():
            return made.stage.model.hidden_states(DIRECTIONS[0], text, image).astype("float32").numpy()

    exact = last_states("fp32")
    error = {fp32: np.abs(last_states("bf16", fp32_residual_connection=fp32) - exact).mean() for fp32 in (True, False)}
    assert error[True] < error[False] / 2
