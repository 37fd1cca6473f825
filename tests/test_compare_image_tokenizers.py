"""tools/compare_image_tokenizers.py: a row for the originals and one for each tokenizer; the metrics on stdout."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import write_shards
from vilg import config
from vilg.image.dvae import DVAE
from vilg.image.vqvae import VQVAE

TOOL = Path(__file__).parent.parent / "tools" / "compare_image_tokenizers.py"


def compare(monkeypatch, folder, *arguments: str) -> Path:
    picture = folder / "compared.png"
    monkeypatch.setattr(sys, "argv", [str(TOOL), *arguments, "--size", "16", "--shown", "5", "--out", str(picture)])
    runpy.run_path(str(TOOL), run_name="__main__")
    return picture


def test_two_kinds(tmp_path, monkeypatch, capsys):
    write_shards(tmp_path)
    VQVAE(config.VQVAE(downsamplings=2, base_channels=32, residual_blocks=1, codebook_size=16, code_dim=8)).save(
        tmp_path / "a"
    )
    DVAE(config.DVAE(downsamplings=2, base_channels=8, residual_blocks=1, codebook_size=8, code_dim=8)).save(
        tmp_path / "b"
    )
    picture = compare(
        monkeypatch, tmp_path, str(tmp_path / "a"), str(tmp_path / "b"), "--shards", str(tmp_path / "part-*.tar")
    )
    width, height = Image.open(picture).size
    assert width >= 5 * 16 and height >= 3 * 16
    first, second = capsys.readouterr().out.splitlines()
    assert "vqvae, 4 x 4 codes of 16: psnr" in first and "dvae, 4 x 4 codes of 8: psnr" in second


def test_a_missing_tokenizer_is_one_line(tmp_path, monkeypatch):
    write_shards(tmp_path)
    with pytest.raises(SystemExit, match="nothing/config.json: no such file"):
        compare(monkeypatch, tmp_path, str(tmp_path / "nothing"), "--shards", str(tmp_path / "part-*.tar"))
