"""The z-loss in training: its gradient, and its mean in metrics.jsonl."""

import numpy as np
import pytest

from tests.processes import metrics
from tests.training.test_pretraining import changed
from vilg import config
from vilg.distributed.world import World
from vilg.errors import SettingsError
from vilg.model.transformer import targets
from vilg.training.entry_points import pretrain
from vilg.training.pretraining import Pretraining


def test_the_reported_losses_are_likelihoods_and_the_z_loss_is_a_mean_over_tokens(small):
    small = changed(small, loss={"z_loss": 0.1}, train={"stop_at": 1})
    objective = Pretraining(small, World())
    batches, sums, counts = objective.batches(0), np.zeros(2), np.zeros(2)
    for _ in range(2):  # global batch 8, micro-batch 4
        inputs = objective.prepare_batch(next(batches))
        for number, direction in enumerate(small.loss.directions):
            logits = objective.model(direction, *inputs.model_inputs(direction)).numpy().astype("float64")
            counted = targets(direction, inputs.text, inputs.image, objective.model.vocab_size)[1].numpy()
            sums[number] += (np.log(np.exp(logits).sum(-1)) ** 2)[counted].sum()
            counts[number] += counted.sum()
    pretrain(small)
    plain = changed(small, run={"name": "plain"}, loss={"z_loss": 0.0})
    pretrain(plain)
    (line,), (without,) = metrics(small.run.folder), metrics(plain.run.folder)
    assert np.allclose([line["z_loss_t2i"], line["z_loss_i2t"]], sums / counts, rtol=1e-4)
    for name in ("loss", "loss_t2i", "loss_i2t"):
        assert line[name] == without[name]
    assert line["grad_norm"] != without["grad_norm"] and "z_loss_t2i" not in without


def test_the_z_loss_decreases_when_it_has_a_large_weight(small):
    pretrain(changed(small, loss={"z_loss": 1.0}))
    lines = metrics(small.run.folder)
    assert lines[-1]["z_loss_t2i"] < 0.8 * lines[0]["z_loss_t2i"]


def test_a_negative_weight_is_refused():
    with pytest.raises(SettingsError, match="loss.z_loss=-1.0: must not be negative"):
        config.resolve(config.Pretraining, None, ["loss.z_loss=-1"])
