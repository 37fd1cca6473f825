"""Settings: every mistake is a one-line error that names the key."""

from pathlib import Path

import pytest

from vilg import config
from vilg.errors import SettingsError

CONFIGS = Path(__file__).parent.parent.parent / "fleet_configs"


def fails(*overrides, file=None, schema=config.Pretraining):
    with pytest.raises(SettingsError) as caught:
        config.resolve(schema, file, list(overrides))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("train: {steps: 7, lr: 0.5}\n")
    settings = config.resolve(config.Pretraining, file, ["train.steps=9", "data.shards=[a.tar,b.tar]"])
    assert (settings.train.steps, settings.train.lr, settings.train.warmup) == (9, 0.5, config.Train().warmup)
    assert settings.data.shards == ["a.tar", "b.tar"]


def test_a_typo_names_the_nearest_key():
    assert fails("train.stepz=5").endswith("unknown key train.stepz; did you mean train.steps?")
    assert fails("modle.layers=5").endswith("unknown key modle; did you mean model?")
    assert "unknown key qqq" in fails("qqq=1")


def test_a_typo_in_a_file_names_the_file(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("train: {stepz: 7}\n")
    assert fails(file=file).startswith(str(file))


@pytest.mark.parametrize(
    "override, key",
    [
        ("train.steps=many", "train.steps"),
        ("run.seed=1.5", "run.seed"),
        ("train.lr=null", "train.lr"),
        ("data.shards=a.tar", "data.shards"),
        ("model=3", "model"),
        ("model.sandwich_norm=perhaps", "model.sandwich_norm"),
    ],
)
def test_a_wrong_type_names_the_key(override, key):
    assert f" {key}" in fails(override)


@pytest.mark.parametrize(
    "override",
    [
        "model.heads=7",
        "model.conv_kernel=10",
        "model.dropout=1",
        "text.length=300",
        "text.length=3",
        "train.steps=0",
        "train.micro_batch=-1",
        "train.lr=0",
        "data.image_size=0",
        "data.crop_jitter=1",
        "data.max_bad_samples=-1",
        "checkpoint.every_steps=-1",
        "checkpoint.keep_last=0",
        "checkpoint.on_failure=x",
        "cluster.device_memory=0",
        "model.layers=0",
        "data.threads=0",
        "model.conv_kernel=-1",
        "model.hidden=0",
        "run.seed=-1",
        "train.warmup=-5",
        "train.eval_every=-3",
        "train.schedule=polynomial",
        "train.eval_every_minutes=-1",
        "cluster.storage_speed=-1",
        "train.schedule=wsd",
        "train.decay_steps=5",
        "train.beta1=2",
        "loss.text_to_image=nan",
        "loss.image_to_text=-1",
        "train.lr=nan",
        "run.name=${x}",
    ],
)
def test_an_invalid_value_names_the_key(override):
    assert override.partition("=")[0] in fails(override)


@pytest.mark.parametrize(
    "override",
    [
        "vqvae.downsamplings=0",
        "vqvae.base_channels=30",
        "vqvae.codebook_size=1",
        "vqvae.base_channels=0",
        "vqvae.code_dim=0",
        "vqvae.residual_blocks=-1",
        "dead_codes.every=0",
        "kind=x",
        "codebook.update=x",
        "codebook.decay=1",
        "gumbel.temperature_end=2",
        "gumbel.temperature_end=0",
        "gumbel.temperature_until=1.5",
        "gumbel.kl_until=-1",
        "gumbel.kl_weight=-1",
        "perceptual.weight=-1",
        "logit_laplace.min_scale=-1",
        "perceptual.start=2",
        "perceptual.crop=-1",
        "autoencoder.until=1",
        "discriminator.start=2",
        "discriminator.weight=-1",
        "discriminator.layers=0",
        "discriminator.width=0",
    ],
)
def test_an_invalid_value_of_an_image_tokenizer(override):
    assert override.partition("=")[0] in fails(override, schema=config.ImageTokenizerTraining)


@pytest.mark.parametrize("override", ["train", "=3", "train.steps"])
def test_an_override_without_a_value(override):
    assert "key=value" in fails(override)


def test_broken_files(tmp_path):
    assert "no such file" in fails(file=tmp_path / "none.yaml")
    (tmp_path / "x.yaml").write_text("train: [1,\n")
    assert "not readable as YAML" in fails(file=tmp_path / "x.yaml")
    (tmp_path / "y.yaml").write_text("- 1\n- 2\n")
    assert "y.yaml" in fails(file=tmp_path / "y.yaml")


def test_the_home_folder_is_expanded(monkeypatch, tmp_path):
    """The shell does so only at the beginning of an argument."""
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "x.yaml").write_text("text: {vocab: ~/vocab.txt}\n")
    overrides = ["run.dir=~/runs", "data.shards=[~/a.tar, b~.tar]", "resume=~/runs/x"]
    settings = config.resolve(config.Pretraining, tmp_path / "x.yaml", overrides)
    assert settings.run.folder == Path("/home/me/runs") / settings.run.name
    assert settings.data.shards == ["/home/me/a.tar", "b~.tar"] and settings.resume.checkpoint == "/home/me/runs/x"
    assert settings.text.vocab == "/home/me/vocab.txt"


def test_stored_settings_with_a_broken_interpolation_are_one_line():
    tree = config.as_tree(config.resolve(config.Pretraining, None, []))
    tree["run"]["name"] = "${nothing}"
    with pytest.raises(SettingsError, match="old/config.json: run.name: Interpolation key 'nothing' not found"):
        config.from_tree(config.Pretraining, tree, "old/config.json")


def test_saved_settings_are_read_back_unchanged(tmp_path):
    settings = config.resolve(config.Pretraining, CONFIGS / "emoji.yaml", ["train.lr=0.002"])
    config.save(settings, tmp_path / "settings.yaml")
    assert config.resolve(config.Pretraining, tmp_path / "settings.yaml") == settings
    assert config.from_tree(config.Pretraining, config.as_tree(settings), "x") == settings


@pytest.mark.parametrize(
    "name, schema",
    [
        ("emoji", config.Pretraining),
        ("lite", config.Pretraining),
        ("10b", config.Pretraining),
        ("emoji_vqvae", config.ImageTokenizerTraining),
        ("emoji_vqvae_f8", config.ImageTokenizerTraining),
        ("emoji_vqgan", config.ImageTokenizerTraining),
        ("emoji_dvae", config.ImageTokenizerTraining),
        ("vqgan_f8", config.ImageTokenizerTraining),
    ],
)
def test_the_files_of_fleet_configs_are_valid(name, schema):
    config.resolve(schema, CONFIGS / f"{name}.yaml")


@pytest.mark.parametrize("name", ["10b", "lite"])
def test_the_models_of_the_paper_see_center_crops(name):
    assert config.resolve(config.Pretraining, CONFIGS / f"{name}.yaml").data.crop_jitter == 0


def test_accumulation_is_derived_and_a_wrong_world_size_is_named():
    train = config.Train(global_batch=24, micro_batch=4)
    assert [train.accumulation(ranks) for ranks in (1, 2, 3, 6)] == [6, 3, 2, 1]
    with pytest.raises(SettingsError, match="not a multiple of train.micro_batch=4 x 4 ranks"):
        train.accumulation(4)
