"""A loss weight of 0: the direction is neither computed nor trained, but still measured on held-out data."""

import numpy as np
import pytest

from tests.processes import metrics
from tests.training.test_pretraining import changed, weights
from vilg import config
from vilg.attention.patterns import DIRECTIONS
from vilg.model import flops
from vilg.model.transformer import Transformer
from vilg.plan.estimate import estimate
from vilg.plan.input_sizes import PAPER
from vilg.training.entry_points import pretrain

ONLY = {
    "t2i": ({"image_to_text": 0}, "loss_i2t", "text_head."),
    "i2t": ({"text_to_image": 0}, "loss_t2i", "image_head."),
}


@pytest.fixture
def forward_passes(monkeypatch) -> list[tuple[str, bool]]:
    """A list of (direction, whether for training), one for each forward pass."""
    seen, forward = [], Transformer.forward

    def counted(self, direction, text, image):
        seen.append((direction, self.training))
        return forward(self, direction, text, image)

    monkeypatch.setattr(Transformer, "forward", counted)
    return seen


@pytest.mark.parametrize("trained", ONLY)
def test_a_direction_with_weight_0_is_not_computed_in_training(small, trained, forward_passes):
    loss, absent, unused = ONLY[trained]
    one = changed(small, loss=loss, train={"eval_every": 6, "weight_decay": 0.5})
    pretrain(one)
    (direction,) = one.loss.directions
    assert forward_passes.count((direction, True)) == 12  # 6 steps of 2 micro-batches
    assert {name for name, training in forward_passes if training} == {direction}
    assert {name for name, training in forward_passes if not training} == set(DIRECTIONS)
    lines = metrics(one.run.folder)
    assert all(absent not in line and line[f"loss_{trained}"] == line["loss"] for line in lines)
    assert {"heldout_nll_t2i", "heldout_nll_i2t"} <= set(lines[-1])
    assert not any(f"grad_norm/{unused.rstrip('.')}" in line for line in lines)
    first, last = weights(one.run.folder, 3), weights(one.run.folder, 6)
    heads = [name for name in first if name.startswith(f"model/{unused}")]
    assert len(heads) == 2 and all(np.array_equal(first[name], last[name]) for name in heads)
    assert not any(name.startswith(f"moment1/{unused}") for name in last)


def test_a_checkpoint_of_both_directions_can_be_continued_with_one_and_again_with_both(small, caplog):
    """The optimizer states of the frozen output layer are left out, and start anew later."""
    caplog.set_level("INFO")
    pretrain(changed(small, train={"stop_at": 2}))
    both = weights(small.run.folder, 2)
    allowed = {"checkpoint": "auto", "allow": ["losses"]}
    pretrain(changed(small, train={"stop_at": 4}, loss={"image_to_text": 0}, resume=allowed))
    one = weights(small.run.folder, 4)
    assert np.array_equal(both["model/text_head.weight"], one["model/text_head.weight"])
    assert both.keys() - one.keys() == {
        f"{moment}/text_head.{part}"
        for moment in ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")
        for part in ("weight", "bias")
    }
    assert "start anew" not in caplog.text
    pretrain(changed(small, resume=allowed))
    assert "no optimizer states of 2 parameters; they start anew" in caplog.text
    again = weights(small.run.folder, 6)
    assert again.keys() == both.keys()
    assert not np.array_equal(again["model/text_head.weight"], one["model/text_head.weight"])
    power = config.Train().beta1
    assert np.isclose(again["beta1_pow_acc/text_head.bias"], power**3)  # Paddle multiplies after each of two updates
    assert np.isclose(again["beta1_pow_acc/image_head.bias"], power**7)


def test_a_plan_of_one_direction_has_half_of_the_operations():
    overrides = ["model.layers=4", "model.hidden=256", "model.heads=4", "train.global_batch=256"]
    both, one = (
        config.resolve(config.Pretraining, None, [*overrides, *more]) for more in ([], ["loss.image_to_text=0"])
    )
    whole, half = (estimate(settings, PAPER, 0.4) for settings in (both, one))
    model = PAPER.model(one)
    head = 256 * 21128 + 21128
    assert half.operations == flops.training_step(model, 256) < 0.7 * whole.operations
    assert whole.parameters == half.parameters
    shards = whole.shards
    assert whole.states.moments - half.states.moments >= 8 * head // shards * 0.5
    assert half.traffic.inside < whole.traffic.inside
