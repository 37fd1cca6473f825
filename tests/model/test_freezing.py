"""Freezing by names of parameters."""

import pytest
from paddle import nn

from vilg import config
from vilg.errors import SettingsError
from vilg.model.freezing import freeze


def model() -> nn.Layer:
    layers = nn.Sequential()
    for name in ("first", "second", "head"):
        layers.add_sublayer(name, nn.Linear(2, 2))
    return layers


@pytest.mark.parametrize(
    "patterns, frozen",
    [
        ([], []),
        (["first.*"], ["first.weight", "first.bias"]),
        (["*.bias"], ["first.bias", "second.bias", "head.bias"]),
        (["second.weight", "hea?.[bw]*"], ["second.weight", "head.weight", "head.bias"]),
    ],
)
def test_parameters_with_a_matching_name_are_frozen(patterns, frozen):
    layers = model()
    freeze(layers, patterns)
    assert [name for name, value in layers.named_parameters() if value.stop_gradient] == frozen


@pytest.mark.parametrize(
    "patterns, said",
    [
        (
            ["*.bias", "secnd.*"],
            r"train.freeze: secnd.\* matches no parameter; the nearest: second.bias, second.weight",
        ),
        (["First.weight"], "First.weight matches no parameter; the nearest: first.weight"),
        (["*"], r"train.freeze=\['\*'\]: nothing is left to train"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(patterns, said):
    with pytest.raises(SettingsError, match=said):
        freeze(model(), patterns)


def test_stage_3_refuses_frozen_parameters():
    overrides = ["train.freeze=['blocks.0.*']", "distributed.stage=3"]
    with pytest.raises(SettingsError, match=r"train.freeze=.*: not with distributed.stage=3"):
        config.resolve(config.Pretraining, None, overrides)
