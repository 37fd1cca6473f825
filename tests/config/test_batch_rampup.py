"""The batch that grows at the beginning of a run, against Megatron's definition and against a simulated run."""

import pytest

from vilg import config
from vilg.config.batch_rampup import BatchRampup
from vilg.errors import SettingsError


def megatron(start: int, increment: int, samples: int, end: int, consumed: int) -> int:
    """RampupBatchsizeNumMicroBatchesCalculator of Megatron-LM, in its own terms."""
    if consumed > samples:
        return end
    per_increment = samples / ((end - start) / increment)
    return min(end, start + int(consumed / per_increment) * increment)


@pytest.mark.parametrize("setting, end", [([8, 8, 200], 32), ([2, 2, 1000], 8), ([16, 16, 7], 64), ([4, 60, 300], 64)])
def test_the_batch_is_that_of_megatron(setting, end):
    rampup = BatchRampup.parse(setting, end)
    for consumed in range(2 * setting[2]):
        assert rampup.at(consumed) == megatron(*setting, end, consumed), consumed
        assert rampup.at(consumed) in rampup.sizes()


@pytest.mark.parametrize("setting", [[8, 8, 200], [8, 4, 30], [31, 1, 9], []])
def test_samples_ahead_are_those_of_a_simulated_run(setting):
    rampup = BatchRampup.parse(setting, 32)
    consumed = [0]
    for _ in range(60):
        consumed.append(consumed[-1] + rampup.at(consumed[-1]))
    for first in range(0, 60, 7):
        for last in range(first, 60):
            assert rampup.ahead(last - first, consumed[first]) == consumed[last] - consumed[first]


def test_without_a_rampup_every_batch_is_the_global_batch():
    rampup = config.Train(global_batch=24).rampup
    assert list(rampup.sizes()) == [24] and rampup.at(0) == rampup.at(10**9) == 24 and rampup.ahead(10) == 240


@pytest.mark.parametrize(
    "setting, said",
    [
        ([8, 8], r"\[start, increment, samples\]"),
        ([8, 0, 100], "must be positive"),
        ([32, 8, 100], "must start below train.global_batch=32"),
        ([8, 9, 100], "8 does not reach train.global_batch=32 in steps of 9"),
    ],
)
def test_a_rampup_that_cannot_be_meant_is_refused(setting, said):
    with pytest.raises(SettingsError, match=f"train.rampup_batch_size=.*{said}"):
        config.Train(global_batch=32, rampup_batch_size=setting)


def test_every_batch_of_the_rampup_must_divide():
    train = config.Train(global_batch=32, micro_batch=4, rampup_batch_size=[8, 4, 100])
    assert [train.accumulation(1, size) for size in (8, 12, 32)] == [2, 3, 8]
    with pytest.raises(SettingsError, match="rampup_batch_size: the batch 28: not a multiple of .* x 2 ranks"):
        train.accumulation(2)
    with pytest.raises(SettingsError, match="train.global_batch=32: not a multiple of .* x 3 ranks"):
        train.accumulation(3)
