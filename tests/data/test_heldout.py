"""Which held-out samples are used, and reading some of them."""

import numpy as np
import pytest

from tests.conftest import pair, write_shard
from vilg import config
from vilg.data.heldout import HeldoutSamples, evenly_spaced
from vilg.errors import SettingsError, UserError


@pytest.mark.parametrize(
    "count, most, expected",
    [(5, 0, [0, 1, 2, 3, 4]), (5, 5, [0, 1, 2, 3, 4]), (5, 9, [0, 1, 2, 3, 4]), (6, 3, [0, 2, 4]), (7, 3, [0, 2, 4])],
)
def test_at_most_so_many_samples_evenly_spaced(count, most, expected):
    assert evenly_spaced(count, most).tolist() == expected


def test_spacing_of_a_large_set_does_not_overflow():
    chosen = evenly_spaced(10**9, 30_000)
    assert len(set(chosen.tolist())) == 30_000 and chosen[-1] < 10**9 and np.ptp(np.diff(chosen)) <= 1


def test_positions_are_read_in_any_order_without_broken_samples(tmp_path):
    files = {name: data for number in range(6) for name, data in pair(number).items()} | {"00002.png": b"broken"}
    write_shard(tmp_path / "heldout.tar", files)
    samples = HeldoutSamples(config.Data(heldout=[str(tmp_path / "heldout.tar")], image_size=16))
    assert len(samples) == 6
    read = list(samples.read([4, 2, 0]))
    assert [(position, sample.name[-5:]) for position, sample, _ in read] == [(4, "00004"), (0, "00000")]
    assert read[0][1].image.shape == (16, 16, 3) and all(captions for *_, captions in read)
    capped = HeldoutSamples(config.Data(heldout=[str(tmp_path / "heldout.tar")], image_size=16, max_heldout_images=3))
    assert [sample.name[-5:] for _, sample, _ in capped.read(range(len(capped)))] == ["00000", "00004"]


def test_missing_shards_and_a_negative_limit_are_refused():
    with pytest.raises(UserError, match="data.heldout: required by"):
        HeldoutSamples(config.Data())
    with pytest.raises(SettingsError, match="data.max_heldout_images=-1: must not be negative"):
        config.Data(max_heldout_images=-1)
