"""A small run and its exports, created once."""

import pytest

from tests.conftest import small_settings, write_shards
from vilg.export.exporter import export
from vilg.training.entry_points import pretrain


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    """The folder of a run whose head size the operator supports."""
    folder = tmp_path_factory.mktemp("run")
    write_shards(folder)
    settings = small_settings(folder, "model.heads=1", "train.caption_dropout=0.2")
    pretrain(settings)
    return settings.run.folder


@pytest.fixture(scope="package", params=["operator", "portable"])
def exported(request, run, tmp_path_factory):
    """One export with the operator and one without it."""
    folder = tmp_path_factory.mktemp("exports") / request.param
    made = export(run, folder, portable=request.param == "portable")
    assert made.operator == (request.param == "operator")
    return folder
