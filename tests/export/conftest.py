"""One small run and its exports, made once."""

import paddle
import pytest

from tests.conftest import WORDS, pair, small_overrides, write_shard
from vilg import config
from vilg.export.exporter import export
from vilg.image.vqvae import VQVAE
from vilg.text.vocabulary import train_vocabulary
from vilg.training.jobs import pretrain


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    """The folder of a run whose heads the operator takes."""
    folder = tmp_path_factory.mktemp("run")
    for part, numbers in enumerate([range(12), range(12, 20)]):
        write_shard(folder / f"part-{part}.tar", {k: v for n in numbers for k, v in pair(n).items()})
    train_vocabulary(WORDS, 100, folder / "vocab.txt")
    paddle.seed(0)
    VQVAE(config.VQVAE(downsamplings=2, width=32, residual_blocks=1, codes=16, code_dim=8)).save(folder / "vq")
    settings = config.resolve(config.Pretraining, None, [*small_overrides(folder), "model.heads=1", "train.drop_caption=0.2"])
    pretrain(settings)
    return settings.run.folder


@pytest.fixture(scope="package", params=["operator", "portable"])
def exported(request, run, tmp_path_factory):
    """With the operator, and without it."""
    folder = tmp_path_factory.mktemp("exports") / request.param
    made = export(run, folder, portable=request.param == "portable")
    assert made.operator == (request.param == "operator")
    return folder
