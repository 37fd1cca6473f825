"""The held-out pairs of pre-training: divided among the ranks, encoded once, and kept on disk."""

import logging
import os
from contextlib import nullcontext

import numpy as np
import paddle
import pytest

from tests.conftest import pair, write_shard
from vilg import config, image
from vilg.distributed.world import World
from vilg.errors import UserError
from vilg.training import heldout_pairs
from vilg.training.heldout_pairs import CODES_FILE, EncodedImages, read_heldout_pairs

IMAGES = 9


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Nine images, of which the sixth is broken; groups of two are encoded together."""
    monkeypatch.setattr(heldout_pairs, "_IMAGES_AT_ONCE", 2)
    files = {name: data for number in range(IMAGES) for name, data in pair(number).items()} | {"00005.png": b"broken"}
    write_shard(tmp_path / "heldout.tar", files)
    return config.Data(heldout=[str(tmp_path / "heldout.tar")], image_size=16)


@pytest.fixture(scope="module")
def tokenizer():
    paddle.seed(0)
    settings = config.VQVAE(base_channels=32, residual_blocks=1, codebook_size=32, code_dim=8)
    return image.KINDS["vqvae"][0](settings)


class Counting:
    """The tokenizer, with the sizes of the batches that it encoded."""

    def __init__(self, tokenizer):
        self.tokenizer, self.grid, self.batches = tokenizer, tokenizer.grid, []

    def encode(self, images):
        self.batches.append(len(images))
        return self.tokenizer.encode(images)


class OneOfSeveral:
    """A rank of a job. `gather` keeps what this rank sends, and returns what all ranks sent if that is known."""

    def __init__(self, rank: int, ranks: int, of_all: list | None = None):
        self.rank, self.ranks, self.of_all, self.is_rank_zero = rank, ranks, of_all, rank == 0
        self.fail_together = nullcontext

    def gather(self, value):
        self.sent = value
        return self.of_all or [value]


def read(data, tokenizer, folder, world=None, fingerprint="a"):
    encode = lambda caption: np.array([len(caption)])  # noqa: E731
    return read_heldout_pairs(data, encode, tokenizer, fingerprint, folder, world or World())


def content(pairs) -> list:
    return [(p.name, p.caption, p.text.tolist(), p.image.tolist()) for p in pairs]


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_ranks_divide_the_images_and_get_the_same_pairs(data, tokenizer, tmp_path, ranks):
    """With seven ranks, two of them have no image."""
    alone = Counting(tokenizer)
    expected = content(read(data, alone, tmp_path / "alone"))
    assert len({name for name, *_ in expected}) == IMAGES - 1 and sum(alone.batches) == IMAGES - 1
    counted, sent = Counting(tokenizer), []
    for rank in range(ranks):
        world = OneOfSeveral(rank, ranks)
        try:
            read(data, counted, tmp_path / f"unused-{rank}", world)
        except UserError:
            assert len(world.sent.positions) == 0  # it has no image of its own, and here knows no others
        sent.append(world.sent)
    assert sorted(counted.batches) == sorted(alone.batches), "each image is encoded once, in the same groups"
    for rank in range(ranks):
        assert content(read(data, tokenizer, tmp_path / f"run-{rank}", OneOfSeveral(rank, ranks, sent))) == expected
    assert [(tmp_path / f"run-{rank}" / CODES_FILE).exists() for rank in range(ranks)] == [True] + [False] * (ranks - 1)


def test_codes_are_read_from_the_folder_of_the_run_on_any_number_of_ranks(data, tokenizer, tmp_path):
    expected, again = content(read(data, tokenizer, tmp_path)), Counting(tokenizer)
    assert content(read(data, again, tmp_path)) == expected
    parts = []
    for rank in range(3):
        world = OneOfSeveral(rank, 3)
        read(data, again, tmp_path, world)
        parts.append(world.sent)
    assert again.batches == []
    assert sum(len(part.positions) for part in parts) == IMAGES - 1
    # A rank that cannot see the file encodes its own part, which fits those of the others.
    elsewhere = OneOfSeveral(1, 3)
    read(data, again, tmp_path / "another-node", elsewhere)
    parts[1] = elsewhere.sent
    assert again.batches and np.array_equal(EncodedImages.join(parts).codes[:2], [p[3] for p in expected][0:2])


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not an archive", None])
def test_a_damaged_file_is_made_again(data, tokenizer, tmp_path, damage, caplog):
    expected, file = content(read(data, tokenizer, tmp_path)), tmp_path / CODES_FILE
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        assert content(read(data, tokenizer, tmp_path)) == expected
    assert "heldout-codes.npz: damaged" in caplog.text
    assert file.read_bytes() == good


def test_one_flipped_bit_is_noticed(data, tokenizer, tmp_path):
    expected, file = content(read(data, tokenizer, tmp_path)), tmp_path / CODES_FILE
    good = file.read_bytes()
    at = good.index(b"codes.npy") + 200  # in the array of codes
    file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    assert content(read(data, tokenizer, tmp_path)) == expected


def test_another_tokenizer_size_limit_or_other_shards_are_encoded_again(data, tokenizer, tmp_path):
    counted = Counting(tokenizer)
    read(data, counted, tmp_path)
    once = len(counted.batches)
    read(data, counted, tmp_path, fingerprint="b")
    assert len(counted.batches) == 2 * once
    data.max_heldout_images = 3
    assert len(read(data, counted, tmp_path, fingerprint="b")) < IMAGES and len(counted.batches) == 2 * once + 2
    data.image_size = 32
    assert len(read(data, counted, tmp_path, fingerprint="b")[0].image) > 16 and len(counted.batches) == 2 * once + 4
    os.utime(tmp_path / "heldout.tar", ns=(0, 0))
    read(data, counted, tmp_path, fingerprint="b")
    assert len(counted.batches) == 2 * once + 6


def test_codes_that_cannot_be_stored_are_still_used(data, tokenizer, tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        assert len(read(data, tokenizer, tmp_path / "file" / "run")) >= IMAGES - 1
    assert "the codes of the held-out images cannot be stored" in caplog.text
