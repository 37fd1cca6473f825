"""The weights of the two directions: means per direction, and the paper's sum over tokens."""

import numpy as np
import pytest

from tests.processes import metrics
from tests.training.test_pretraining import changed
from vilg import config
from vilg.attention.patterns import DIRECTIONS
from vilg.distributed.world import World
from vilg.errors import SettingsError
from vilg.training.entry_points import pretrain
from vilg.training.loss_weights import mean_weights
from vilg.training.pretraining import Pretraining

TOKENS = {"text_to_image": 1024.0, "image_to_text": 13.0}


def test_with_normalization_by_direction_a_text_token_weighs_79_image_tokens():
    weights = mean_weights(config.LossWeights(), TOKENS)
    per_token = {name: weights[name] / TOKENS[name] for name in DIRECTIONS}
    assert round(per_token["image_to_text"] / per_token["text_to_image"]) == 79


def test_with_normalization_by_tokens_all_tokens_have_the_same_weight():
    weights = mean_weights(config.LossWeights(normalization="tokens"), TOKENS)
    assert np.isclose(weights["image_to_text"] / 13, weights["text_to_image"] / 1024)
    assert np.isclose(sum(weights.values()), 1)
    doubled = mean_weights(config.LossWeights(image_to_text=2, normalization="tokens"), TOKENS)
    assert np.isclose(doubled["image_to_text"], 2 * weights["image_to_text"])


def test_the_papers_sum_is_proportional_to_the_negative_log_likelihood_of_all_tokens(small):
    """Equations (3) to (5), and the reported means do not depend on the normalization."""
    small = changed(small, train={"stop_at": 2})
    pretrain(changed(small, run={"name": "direction"}))
    pretrain(changed(small, run={"name": "tokens"}, loss={"normalization": "tokens"}))
    (mean, _), (summed, second) = (metrics(small.run.folder.parent / name) for name in ("direction", "tokens"))
    for name in ("loss_t2i", "loss_i2t"):  # the model of the first step is the initial one in both runs
        assert np.isclose(mean[name], summed[name])
    objective, tokens = Pretraining(small, World()), np.zeros(2)
    batches = objective.batches(0)
    for _ in range(2):  # global batch 8, micro-batch 4
        counts = objective.loss_denominators(objective.prepare_batch(next(batches)))
        tokens += counts["t2i"], counts["i2t"]
    nll = tokens @ [summed["loss_t2i"], summed["loss_i2t"]]
    assert np.isclose(summed["loss"], nll / tokens.sum()) and not np.isclose(summed["loss"], mean["loss"])
    assert second["loss"] != summed["loss"]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["loss.text_to_image=0", "loss.image_to_text=0"], "loss.text_to_image=0, loss.image_to_text=0: one of them"),
        (["loss.normalization=sum"], "loss.normalization=sum: none of direction, tokens"),
        (["loss.image_to_text=-1"], "loss.image_to_text=-1.0: must not be negative"),
    ],
)
def test_weights_without_meaning_are_refused(overrides, message):
    with pytest.raises(SettingsError, match=message):
        config.resolve(config.Pretraining, None, overrides)
