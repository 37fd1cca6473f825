"""The sample at position p depends only on (seed, p)."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import pair, write_shard
from vilg import config
from vilg.data.loader import training_batches
from vilg.text.sequence import CaptionEncoder


class Letters:
    """A text tokenizer that maps characters to code points, which suffices for the loader."""

    vocab_size, cls_id, sep_id = 70000, 1, 2

    def encode(self, text):
        return [ord(letter) for letter in text]


@pytest.fixture
def data(shards):
    return config.Data(shards=shards, image_size=16, crop_jitter=0.3)


def read(data, samples, batch=2, ranks=1, consumed=0, seed=5):
    """The first `samples` samples of all ranks, in the order of their positions."""
    encode = CaptionEncoder(Letters(), 10)
    rows = []
    for rank in range(ranks):
        batches = training_batches(data, seed, batch, rank, ranks, consumed, encode)
        mine = []
        while len(mine) < samples // ranks:
            one = next(batches)
            mine += list(zip(one.names, one.captions, one.images, one.text, one.seeds))
        rows.append(mine[: samples // ranks])
    return [row for turn in zip(*rows) for row in turn]


def same(one, two):
    return len(one) == len(two) and all(
        a[0] == b[0] and a[1] == b[1] and np.array_equal(a[2], b[2]) and np.array_equal(a[3], b[3]) and a[4] == b[4]
        for a, b in zip(one, two)
    )


def test_order_and_crops_do_not_depend_on_ranks_batch_size_or_reader_threads(data):
    reference = read(data, 72)
    assert len({row[4] for row in reference}) == 72
    assert same(reference, read(data, 72, ranks=2))
    assert same(reference, read(data, 72, ranks=3, batch=4))
    assert same(reference, read(replace(data, threads=7), 72, batch=8))


def test_continuing_after_consumed_samples_gives_the_same_order(data):
    reference = read(data, 72)
    assert same(reference[40:], read(data, 32, consumed=40))
    assert same(reference[40:], read(data, 32, consumed=40, ranks=2, batch=4))


def test_every_epoch_contains_each_sample_once_in_a_different_order(data):
    names = [row[0] for row in read(data, 60)]
    epochs = [names[start : start + 20] for start in (0, 20, 40)]
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_depends_on_the_seed_and_crops_change_between_epochs(data):
    assert not same(read(data, 20), read(data, 20, seed=6))
    rows = read(data, 40)
    first = rows[0]
    again = next(row for row in rows[20:] if row[0] == first[0])
    assert not np.array_equal(first[2], again[2])


def test_starting_at_a_late_position_takes_no_longer(data):
    batches = training_batches(data, 5, 2, 0, 1, 10**12)
    assert len(next(batches)) == 2


def test_a_broken_image_is_replaced_the_same_way_on_any_number_of_ranks(tmp_path):
    files = {k: v for n in range(9) for k, v in pair(n).items()}
    files["00004.png"] = b"not a picture"
    write_shard(tmp_path / "a.tar", files)
    data = config.Data(shards=[str(tmp_path / "a.tar")], image_size=16)
    reference = read(data, 24)
    assert not any(row[0].endswith("00004") for row in reference)
    assert same(reference, read(data, 24, ranks=2))


def test_images_only_needs_no_captions(tmp_path):
    write_shard(
        tmp_path / "a.tar", {name: value for n in range(4) for name, value in pair(n).items() if name.endswith("png")}
    )
    batch = next(training_batches(config.Data(shards=[str(tmp_path / "a.tar")], image_size=16), 1, 4, 0, 1, 0))
    assert batch.text is None and batch.images.shape == (4, 3, 16, 16)
    assert list(itertools.chain(batch.captions)) == [""] * 4
