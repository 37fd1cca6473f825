"""Held-out images of an image tokenizer: uint8 in memory, divided among the ranks, measured a few at a time."""

import numpy as np
import paddle
import pytest

from tests.conftest import pair, write_shard
from vilg import config, image
from vilg.data.images import to_unit
from vilg.errors import UserError
from vilg.evaluation.image_metrics import mean_psnr, mean_ssim
from vilg.image.quantizer import count_codes
from vilg.training import reconstruction
from vilg.training.reconstruction import measure_reconstruction, read_heldout_images, reconstruct


@pytest.fixture
def data(tmp_path):
    """Seven images, of which the second is broken."""
    files = {name: data for number in range(7) for name, data in pair(number).items()} | {"00001.png": b"broken"}
    write_shard(tmp_path / "heldout.tar", files)
    return config.Data(heldout=[str(tmp_path / "heldout.tar")], image_size=16)


def test_ranks_hold_their_own_images_as_bytes_and_all_hold_the_first(data):
    alone = read_heldout_images(data, 2)
    assert alone.own.dtype == np.uint8 and alone.own.shape == (6, 16, 16, 3)
    ranks = [read_heldout_images(data, 2, rank, 4) for rank in range(4)]
    assert [len(images.own) for images in ranks] == [2, 1, 2, 1]
    assert all(np.array_equal(images.first, alone.own[:2]) for images in ranks)
    together = sorted(row.tobytes() for images in ranks for row in images.own)
    assert together == sorted(row.tobytes() for row in alone.own)


def test_the_limit_applies_and_no_usable_image_is_an_error(data, tmp_path):
    data.max_heldout_images = 3
    assert len(read_heldout_images(data, 16).own) == 3
    write_shard(tmp_path / "heldout.tar", pair(0) | {"00000.png": b"broken"})
    with pytest.raises(UserError, match="data.heldout: contains no usable image"):
        read_heldout_images(data, 16)


def test_measurements_of_parts_equal_those_of_all_images(data, monkeypatch):
    """The same passes, with conversion and metrics a few images at a time instead of all at once."""
    monkeypatch.setattr(reconstruction, "_PIXELS_TOGETHER", 4 * 16 * 16)
    paddle.seed(0)
    tokenizer = image.KINDS["vqvae"][0](config.VQVAE(base_channels=32, residual_blocks=1, codebook_size=32, code_dim=8))
    images = read_heldout_images(data, 1).own
    codes, reconstructed = reconstruct(tokenizer, images)
    measured = measure_reconstruction(tokenizer, images, lambda *batch: (batch[0] - batch[1]).abs().mean([1, 2, 3]))
    assert measured.values["psnr"].mean() == mean_psnr(to_unit(images), reconstructed)  # to the last bit
    assert measured.values["ssim"].mean() == pytest.approx(mean_ssim(to_unit(images), reconstructed), rel=1e-14)
    assert measured.values["lpips"] == pytest.approx(
        2 * np.abs(to_unit(images) - reconstructed).mean((1, 2, 3)), rel=1e-5
    )
    assert (measured.chosen == count_codes(codes, 32)).all() and int(measured.chosen.sum()) == codes.size
