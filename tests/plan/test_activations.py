"""The peak that `vilg plan` predicts matches the one that Paddle's allocator reports.

Within 1.5%, and within 5% for dense attention, which no job uses. docs/launch.md states these limits.
"""

from functools import partial

import numpy as np
import paddle
import pytest

from vilg import config
from vilg.attention.patterns import DIRECTIONS
from vilg.bench.random_pairs import random_losses
from vilg.bench.timing import extra_bytes
from vilg.distributed.engine import Engine
from vilg.distributed.world import World
from vilg.model.loss import summed_nll, summed_z_loss
from vilg.model.transformer import Transformer, targets
from vilg.plan import activations
from vilg.plan.input_sizes import PAPER
from vilg.plan.memory_tracker import MemoryTracker
from vilg.training.optimizer import adamw

FP32 = 4
TOLERANCE = {"operator": 0.015, "blockwise": 0.015, "dense": 0.05}


def real_peak(model: Transformer, recompute: str, batch: int) -> int:
    """The measured peak of a micro-batch whose gradients are already allocated."""
    engine = Engine(
        World(), model, partial(adamw, config.Train()), 1.0, config.Distributed(recompute=recompute, precision="fp32")
    )
    losses = random_losses(model, batch)
    return extra_bytes(lambda: engine.micro_step(losses, dict.fromkeys(DIRECTIONS, 1.0)))


def model(settings: dict, words: int, codes: int, text: int, side: int, backend: str) -> Transformer:
    return Transformer(config.Model(**settings), words, codes, text, (side, side), config.Attention(backend))


DEEP = {"layers": 6, "hidden": 192, "heads": 6}
WIDE = {"layers": 4, "hidden": 256, "heads": 4}
ALL = WIDE | {"qk_norm": True, "sandwich_norm": True, "dropout": 0.1}
CASES = {
    "blocks": (WIDE, 1000, 512, 16, 16, 4, "none", "operator"),
    "recompute": (WIDE, 1000, 512, 16, 16, 4, "block", "operator"),
    "every second block": (WIDE, 1000, 512, 16, 16, 4, "2", "operator"),
    "many codes": ({"layers": 8, "hidden": 128, "heads": 2}, 500, 8192, 64, 16, 4, "3", "operator"),
    "many words": ({"layers": 1, "hidden": 128, "heads": 2}, 21128, 512, 128, 8, 4, "none", "operator"),
    "short and many": (DEEP, 2000, 1024, 32, 8, 8, "block", "operator"),
    "all switches": (ALL, 1000, 512, 16, 16, 4, "block", "operator"),
    "block-wise": (WIDE, 1000, 512, 64, 32, 1, "none", "blockwise"),
    "block-wise, recompute": (WIDE, 1000, 512, 16, 16, 4, "block", "blockwise"),
    "dense": (ALL, 1000, 512, 64, 32, 1, "none", "dense"),
    "dense, recompute": (WIDE, 1000, 512, 64, 32, 1, "block", "dense"),
}


def test_predicted_peak_with_a_z_loss():
    """Its gradient needs the logits a second time."""
    settings, words, codes, text, side, batch, recompute, backend = CASES["many words"]
    made = model(settings, words, codes, text, side, backend)
    engine = Engine(
        World(), made, partial(adamw, config.Train()), 1.0, config.Distributed(recompute=recompute, precision="fp32")
    )
    rng = np.random.default_rng(0)
    ids = [paddle.to_tensor(rng.integers(0, most, [batch, n])) for most, n in ((words, text), (codes, side**2))]

    def loss(called, direction):
        expected, counted = targets(direction, *ids, words)
        logits = called(direction, *ids)
        return summed_nll(logits, expected, counted) + 1e-4 * summed_z_loss(logits, counted)

    def losses(called):
        for direction in DIRECTIONS:
            yield direction, loss(called, direction)

    engine.micro_step(losses, dict.fromkeys(DIRECTIONS, 1.0))
    measured = extra_bytes(lambda: engine.micro_step(losses, dict.fromkeys(DIRECTIONS, 1.0)))
    assert activations.peak(made, backend, recompute, batch, FP32, FP32, z_loss=True) == pytest.approx(
        measured, rel=0.015
    )


@pytest.mark.parametrize("case", CASES)
def test_predicted_peak_matches_the_allocator(case):
    settings, words, codes, text, side, batch, recompute, backend = CASES[case]
    made = model(settings, words, codes, text, side, backend)
    assert activations.peak(made, backend, recompute, batch, FP32, FP32) == pytest.approx(
        real_peak(made, recompute, batch), rel=TOLERANCE[backend]
    )


@pytest.mark.timeout(300)
def test_predicted_peak_matches_the_allocator_at_full_width():
    """Two layers of the 10-billion-parameter model and the paper's vocabularies, with recompute.

    The image has only 16 x 16 tokens, to save time. docs/launch.md has the result for the full image, measured by
    `vilg bench train`.
    """
    made = PAPER.model(
        config.Pretraining(data=config.Data(image_size=128), model=config.Model(layers=2, hidden=4096, heads=64))
    )
    measured = real_peak(made, "block", 1)
    assert activations.peak(made, "operator", "block", 1, FP32, FP32) == pytest.approx(
        measured, rel=TOLERANCE["operator"]
    )


@pytest.mark.parametrize("recompute", ["none", "block", "2"])
@pytest.mark.parametrize("backend", ["operator", "blockwise", "dense"])
@pytest.mark.parametrize("width, fp32_residual", [(2, False), (2, True), (4, False)])
def test_replay_frees_all_but_the_gradient_of_the_embedded_tokens(recompute, backend, width, fp32_residual):
    """Only the gradient of the embedded tokens remains at the end."""
    made = model(ALL | {"fp32_residual_connection": fp32_residual}, 50, 40, 8, 4, backend)
    for direction in DIRECTIONS:
        replay = activations._Replay(made, direction, backend, recompute, 3, width, FP32, z_loss=True)
        replay.peak()
        assert replay.memory.live == replay.stream


def test_peak_counts_only_memory_that_is_live_at_the_same_time():
    memory = MemoryTracker()
    memory.allocate(3)
    memory.free(3)
    memory.allocate(2)
    memory.allocate_briefly(4)
    assert (memory.live, memory.peak) == (2, 6)
