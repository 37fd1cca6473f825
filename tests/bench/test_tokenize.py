"""The benchmark of image tokenizers runs, and its figures are consistent."""

import json

import paddle
import pytest

from vilg import config
from vilg.bench import tokenize
from vilg.cli import main
from vilg.image.vqgan import VQGAN
from vilg.image.vqvae import VQVAE

SMALL = {
    "vqvae": lambda: config.VQVAE(2, 32, 1, 16, 8),
    "dvae": lambda: config.DVAE(2, 16, 1, 16, 8),
    "vqgan": lambda: config.VQGAN("gumbel", 32, [1, 2], 1, [2], 32, 16, 8),
}


def test_json_and_table_have_every_kind_and_size(capsys, monkeypatch):
    monkeypatch.setattr(tokenize, "SETTINGS", SMALL)
    monkeypatch.setattr(tokenize, "matmul_rate", lambda: 100.0)
    command = ["bench", "tokenize", "--sizes", "16", "32", "--batch", "2", "--repeats", "1"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [(row["kind"], row["size"]) for row in result["rows"]] == [
        (kind, size) for kind in SMALL for size in (16, 32)
    ]
    for row in result["rows"]:
        assert row["matmul_share"] == pytest.approx(row["gflop_per_image"] * row["images_per_second"] / 100)
    assert len(tokenize.table(result).splitlines()) == 2 + 2 * len(SMALL)
    assert main([*command[:2], "--sizes", "18"]) == 1
    assert "data.image_size=18" in capsys.readouterr().err


def test_operations_match_sums_by_hand():
    """Images of 16 x 16 pixels. A batch of two images counts twice."""
    model = VQVAE(config.VQVAE(downsamplings=1, base_channels=32, residual_blocks=1, codebook_size=16, code_dim=8))
    down, residual, out = 64 * 32 * 3 * 16, 64 * (32 * 32 * 9 + 32 * 32), 64 * 8 * 32
    by_hand = 2 * (down + residual + out + 64 * 8 * 16)
    for batch in (1, 2):
        images = paddle.rand([batch, 3, 16, 16])
        assert tokenize.operations(model, lambda images=images: model.encode(images)) == batch * by_hand

    model = VQGAN(SMALL["vqgan"]())  # 8 x 8 codes; levels of 32 and 64 channels
    first = 256 * (32 * 3 * 9 + 2 * 32 * 32 * 9) + 64 * 32 * 32 * 9  # conv_in, one block, downsampling
    second = 64 * (32 * 64 * 9 + 64 * 64 * 9 + 32 * 64) + 2 * 2 * 64 * 64 * 64 * 9  # one block, two in the middle
    attention = 2 * (4 * 64 * 64 * 64 + 2 * 64 * 64 * 64)  # at the level and in the middle: four 1 x 1 layers, products
    last = 64 * (64 * 32 * 9 + 32 * 8 + 8 * 16)  # conv_out, quant_conv, the logits of 16 codes
    images = paddle.rand([1, 3, 16, 16])
    assert tokenize.operations(model, lambda: model.encode(images)) == 2 * (first + second + attention + last)
