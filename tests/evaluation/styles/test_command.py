"""`vilg evaluate styles` with a small model, from its checkpoint and from its export."""

import json

import pytest

from tests.conftest import small_settings
from tests.data.styles.packages import write_packages
from vilg.cli import main
from vilg.data.captions import CaptionDataset
from vilg.data.styles.builder import build
from vilg.evaluation.styles.measures import CEILING, SHUFFLED
from vilg.evaluation.styles.pictures import NEW, RECOLOURED, TRAINING, UNSEEN
from vilg.export.exporter import export
from vilg.text.vocabulary import train_vocabulary
from vilg.training.entry_points import pretrain

for package in ("emoji", "resvg_py"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'vilg[demo]'")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, lpips_file):
    """The options of the command, without the model; the folder of a run; and that of an export."""
    folder = tmp_path_factory.mktemp("styles")
    build(folder / "data", write_packages(folder / "packages"))
    settings = small_settings(
        folder, f"data.shards=['{folder}/data/train-*.tar']", "data.heldout=[]", "train.steps=3", "text.length=40"
    )
    train_vocabulary(CaptionDataset(settings.data.shards, 0), 1000, folder / "vocab.txt")
    pretrain(settings)
    export(settings.run.folder, folder / "export")
    options = ["--data", str(folder / "data"), "--lpips", str(lpips_file)]
    return ["evaluate", "styles", *options], str(settings.run.folder), str(folder / "export")


def test_a_checkpoint_and_its_export_have_the_same_results(trained, tmp_path, capsys):
    command, run, exported = trained
    results = []
    for source in (["--checkpoint", run], ["--export", exported]):
        assert main([*command, *source, "--json", "--features", str(tmp_path / "features.npz")]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0] == results[1]
    assert set(results[0]) == {NEW, RECOLOURED, UNSEEN, TRAINING, SHUFFLED, CEILING}
    counts = {NEW: 1, RECOLOURED: 1, UNSEEN: 11, TRAINING: 2, SHUFFLED: 1, CEILING: 1}
    assert {name: found["pictures"] for name, found in results[0].items()} == counts
    assert (tmp_path / "features.npz").exists()


def test_the_table_and_the_page(trained, tmp_path, capsys):
    command, run, _ = trained
    page = tmp_path / "page.html"
    assert main([*command, "--checkpoint", run, "--most", "1", "--page", str(page), "--curves", run]) == 0
    assert "held-out combinations" in capsys.readouterr().out
    assert "<svg" in page.read_text("utf-8")
    assert main([*command, "--checkpoint", run, "--page", str(page)]) == 1
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, expected",
    [
        (["--data", "nowhere"], "nowhere/train-*.tar: no such shard"),
        (["--lpips", "nothing.tar.gz"], "perceptual.path=nothing.tar.gz: no such file"),
        (["--most", "-1"], "-1"),
        (["--temperature", "-1"], "temperature"),
    ],
)
def test_bad_input(trained, change, expected, capsys):
    command, run, _ = trained
    try:
        code = main([*command, "--checkpoint", run, *change])
    except SystemExit as error:
        code = error.code
    assert code and expected in capsys.readouterr().err


def test_shards_of_another_kind(trained, tmp_path, shards, capsys):
    command, run, _ = trained
    (tmp_path / "part-0.tar").rename(tmp_path / "train-000000.tar")
    assert main([*command, "--checkpoint", run, "--data", str(tmp_path)]) == 1
    assert "not a picture of `vilg data emoji --styles`" in capsys.readouterr().err
