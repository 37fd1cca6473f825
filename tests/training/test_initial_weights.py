"""A run that starts from the weights of another one (`init`)."""

import shutil

import numpy as np
import paddle
import pytest

from tests.conftest import WORDS, small_overrides, small_settings
from tests.processes import metrics
from vilg import checkpoint, config
from vilg.attention.patterns import DIRECTIONS
from vilg.distributed.world import World
from vilg.errors import SettingsError, UserError
from vilg.export.exporter import export
from vilg.image.vqvae import VQVAE
from vilg.text.vocabulary import train_vocabulary
from vilg.training.entry_points import pretrain
from vilg.training.initial_weights import _interpolate, _resize_text_positions
from vilg.training.pretraining import Pretraining


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder with a trained run, its export, and what the settings of other runs name."""
    from tests.conftest import write_shards

    folder = tmp_path_factory.mktemp("source")
    write_shards(folder)
    settings = small_settings(folder, "run.name=first", "train.ema_decay=0.5")
    pretrain(settings)
    export(settings.run.folder, folder / "export")
    return folder


def settings_of(source, *more):
    return config.resolve(config.Pretraining, None, [*small_overrides(source), "run.name=second", *more])


def started(source, *more):
    """The objective of a run, with its initial weights: {name: value}, and the objective."""
    objective = Pretraining(settings_of(source, *more), World())
    objective.load_initial_weights()
    return {name: value.numpy() for name, value in objective.model.named_parameters()}, objective


def stored(source, kind="ema/"):
    _, tensors = checkpoint.load(source / "runs/first/checkpoints/step-00000006")
    return {name.removeprefix(kind): value for name, value in tensors.items() if name.startswith(kind)}


@pytest.mark.parametrize("place", ["runs/first", "runs/first/checkpoints/step-00000006", "export"])
def test_weights_of_a_run_a_checkpoint_or_an_export(source, place):
    found, _ = started(source, f"init={source / place}")
    expected = stored(source)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)


def test_the_weights_of_the_last_step_instead_of_their_average(source):
    found, _ = started(source, f"init={source}/runs/first", "init.raw_weights=true")
    raw, averaged = stored(source, "model/"), stored(source)
    assert all(np.array_equal(found[name], raw[name]) for name in found)
    assert any(not np.array_equal(raw[name], averaged[name]) for name in raw)


def test_everything_else_is_new(source, tmp_path):
    """Step, schedule, optimizer and data start anew; the first loss is that of the weights."""
    settings = settings_of(source, f"init={source}/runs/first", f"run.dir={tmp_path}", "train.steps=2", "run.seed=5")
    pretrain(settings)
    lines = metrics(settings.run.folder)
    assert [line["step"] for line in lines] == [1, 2] and lines[0]["consumed_samples"] == 8
    assert lines[0]["lr"] == pytest.approx(0.0015)  # the first of two steps of warmup
    anew = settings_of(source, f"run.dir={tmp_path}/anew", "train.steps=1", "run.seed=5")
    pretrain(anew)
    trained = metrics(source / "runs/first")
    assert lines[0]["loss"] < metrics(anew.run.folder)[0]["loss"] - 0.1 and lines[0]["loss"] < trained[0]["loss"]


def test_a_run_with_checkpoints_continues_and_does_not_need_the_source(source, tmp_path):
    shutil.copytree(source / "runs/first", tmp_path / "copy")
    common = [f"run.dir={tmp_path}", f"init={tmp_path}/copy", "resume=auto", "train.ema_decay=0.5"]
    pretrain(settings_of(source, *common, "train.stop_at=3"))
    shutil.rmtree(tmp_path / "copy")
    pretrain(settings_of(source, *common))
    parts = metrics(tmp_path / "second")
    whole = settings_of(source, f"run.dir={tmp_path}/whole", f"init={source}/runs/first", "train.ema_decay=0.5")
    pretrain(whole)
    assert [line["loss"] for line in parts] == [line["loss"] for line in metrics(whole.run.folder)]


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (["init=nowhere"], "init=nowhere: no such folder"),
        (["init={0}/runs"], r"runs"),
        (["init={0}/runs/first", "model.heads=4"], "another model: model.heads is 2 there and 4 here"),
        (["init={0}/runs/first", "model.conv_kernel=5"], "another model: model.conv_kernel is 3 there and 5 here"),
        (["init={0}/runs/first", "model.layers=4", "init.partial=true"], "another model: model.layers is 3 there"),
        (["init={0}/runs/first", "text.length=9"], r"embed_text.positions is \[8, 32\] there and \[9, 32\] here"),
        (
            ["init={0}/runs/first", "data.image_size=32"],
            r"embed_image.rows is \[4, 1, 32\] there and \[8, 1, 32\] here",
        ),
        (
            ["init={0}/runs/first", "model.qk_norm=true"],
            "blocks.0.attention.norm_k.bias is missing; .*init.partial=true",
        ),
        (["init={0}/vq"], "vq"),
    ],
)
def test_what_does_not_fit_is_named(source, overrides, expected):
    with pytest.raises(UserError, match=expected):
        started(source, *(override.format(source) for override in overrides))


def test_options_without_a_checkpoint():
    with pytest.raises(SettingsError, match=r"init\.checkpoint is empty"):
        config.resolve(config.Pretraining, None, ["init.partial=true"])


def test_an_export_whose_checkpoint_is_gone(source, tmp_path):
    shutil.copytree(source / "runs/first", tmp_path / "run")
    export(tmp_path / "run", tmp_path / "export")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(UserError, match="an export of .*, which is no longer there"):
        started(source, f"init={tmp_path}/export")


def test_a_damaged_checkpoint(source, tmp_path):
    shutil.copytree(source / "runs/first/checkpoints/step-00000006", tmp_path / "step-00000006")
    (file,) = (tmp_path / "step-00000006").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=file.name):
        started(source, f"init={tmp_path}/step-00000006")


def test_a_longer_text_and_a_larger_grid(source, caplog):
    caplog.set_level("INFO")
    common = [f"init={source}/runs/first", "init.partial=true"]
    found, objective = started(source, *common, "text.length=12", "data.image_size=32")
    before, size = stored(source), objective.text_tokenizer.vocab_size
    words, old_words = found["embed_text.words.weight"], before["embed_text.words.weight"]
    assert np.array_equal(words[: size + 1 + 8], old_words)  # words, BOI, and the padding of the first positions
    positions, old = found["embed_text.positions"], before["embed_text.positions"]
    assert np.array_equal(positions[:7], old[:7]) and np.array_equal(positions[-1], old[-1])
    assert np.array_equal(positions[7:11], old[6:7].repeat(4, 0))
    rows = found["embed_image.rows"]
    assert rows.shape[0] == 8 and np.allclose(rows[1:3].mean(0), before["embed_image.rows"][:2].mean(0), atol=1e-6)
    changed = {"embed_text.words.weight", "embed_text.positions", "embed_image.rows", "embed_image.columns"}
    assert all(np.array_equal(found[name], before[name]) for name in found.keys() - changed)
    assert "embed_image.rows interpolated from 4 to 8" in caplog.text and "8 positions are now 12" in caplog.text


def test_a_new_vocabulary_keeps_the_words_that_it_shares(source, tmp_path):
    """Both models give the same probabilities to a caption of shared words, up to a constant for the new words."""
    train_vocabulary([*WORDS, "长颈鹿和斑马", "河马"], 100, tmp_path / "vocab.txt")
    _, same = started(source, f"init={source}/runs/first")
    common = [f"init={source}/runs/first", "init.partial=true", f"text.vocab={tmp_path}/vocab.txt"]
    _, other = started(source, *common)
    old_size, new_size = same.text_tokenizer.vocab_size, other.text_tokenizer.vocab_size
    assert new_size > old_size
    image = paddle.to_tensor(np.arange(16).reshape([1, 16]))
    logits = {}
    for objective in (same, other):
        objective.model.eval()
        text = paddle.to_tensor(objective.encode("红苹果")[None])
        logits[objective] = [objective.model(direction, text, image).numpy() for direction in DIRECTIONS]
    assert np.allclose(logits[same][0], logits[other][0], atol=1e-5)
    shared = {
        number: same.text_tokenizer.entries()[word]
        for word, number in other.text_tokenizer.entries().items()
        if word in same.text_tokenizer.entries()
    }
    assert len(shared) == old_size
    old, new = logits[same][1][:, :, list(shared.values())], logits[other][1][:, :, list(shared)]
    assert np.allclose(old, new, atol=1e-5)


def test_the_old_vocabulary_is_needed_to_match_words(source, tmp_path):
    shutil.copytree(source / "runs/first/checkpoints/step-00000006", tmp_path / "step-00000006")
    train_vocabulary([*WORDS, "河马"], 100, tmp_path / "vocab.txt")
    common = ["init.partial=true", f"text.vocab={tmp_path}/vocab.txt", f"init={source}/runs/first"]
    with pytest.raises(UserError, match="vocab.txt is not its vocabulary; init.vocab names it"):
        started(source, *common, f"init.vocab={tmp_path}/vocab.txt")
    with pytest.raises(UserError, match="its vocabulary is needed to match words; init.vocab names it .nowhere.txt"):
        started(source, *common, "init.vocab=nowhere.txt")


def test_with_another_image_tokenizer_codes_start_anew(source, tmp_path, caplog):
    caplog.set_level("INFO")
    paddle.seed(5)
    VQVAE(config.VQVAE(downsamplings=2, base_channels=32, residual_blocks=1, codebook_size=16, code_dim=8)).save(
        tmp_path / "other"
    )
    common = [f"init={source}/runs/first", f"image_tokenizer.path={tmp_path}/other"]
    with pytest.raises(UserError, match="another image tokenizer; with init.partial=true"):
        started(source, *common)
    found, _ = started(source, *common, "init.partial=true")
    before = stored(source)
    assert not np.array_equal(found["embed_image.codes.weight"], before["embed_image.codes.weight"])
    assert np.array_equal(found["embed_text.words.weight"], before["embed_text.words.weight"])
    assert "init: image_head.weight starts anew: another image tokenizer" in caplog.text


def test_parts_that_the_checkpoint_lacks_start_anew(source, caplog):
    caplog.set_level("INFO")
    found, _ = started(source, f"init={source}/runs/first", "init.partial=true", "model.qk_norm=true")
    assert (found["blocks.0.attention.norm_q.weight"] == 1).all()
    assert "init: blocks.0.attention.norm_q.weight starts anew: the checkpoint lacks it" in caplog.text


def test_interpolation_and_resizing():
    values = np.arange(4.0)[:, None]
    assert np.array_equal(_interpolate(values, 0, 4), values)
    assert np.allclose(_interpolate(values, 0, 8)[:, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    assert np.allclose(_interpolate(values.T, 1, 2), [[0.5, 2.5]])
    assert _resize_text_positions(values, 6)[:, 0].tolist() == [0, 1, 2, 2, 2, 3]
    assert _resize_text_positions(values, 3)[:, 0].tolist() == [0, 1, 3]
