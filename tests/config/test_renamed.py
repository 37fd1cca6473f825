"""Old names of settings, values and options are refused with the new name, and translated where they are stored."""

import pytest

from vilg.cli import main
from vilg.config import renamed
from vilg.errors import SettingsError


def nested(key, value):
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


@pytest.mark.parametrize("old, new", renamed.KEYS.items())
def test_an_old_key_is_refused_with_the_new_name(old, new):
    with pytest.raises(SettingsError) as error:
        renamed.refuse_old_names(nested(old, 1), "settings.yaml")
    assert str(error.value) == f"settings.yaml: {old} is now called {new}"
    renamed.refuse_old_names(nested(new, 1), "settings.yaml")


@pytest.mark.parametrize("key, old, new", [(k, o, n) for k, names in renamed.VALUES.items() for o, n in names.items()])
def test_an_old_value_is_refused_with_the_new_name(key, old, new):
    with pytest.raises(SettingsError, match=f"{key}: the value {old} is now called {new}"):
        renamed.refuse_old_names(nested(key, old), "settings.yaml")


def test_stored_settings_are_translated():
    stored = {"train": {"clip": 1.0, "lr": 2}, "pixels": {"error": "absolute"}, "seed": 3}
    assert renamed.translate(stored) == {
        "train": {"max_grad_norm": 1.0, "lr": 2},
        "pixel_loss": {"kind": "l1"},
        "seed": 3,
    }


def test_sizes_of_an_image_tokenizer_have_one_fingerprint_under_both_names():
    stored = {"codes": 8192, "width": 128, "attention": [16], "z": 1}
    translated = renamed.translate(stored, "vqgan")
    assert translated == {"codebook_size": 8192, "base_channels": 128, "attention_factors": [16], "z": 1}
    assert renamed.original_names("vqgan", translated) == stored


@pytest.mark.parametrize("key, value", [("train.clip", "1"), ("train.measure_every", "5")])
def test_an_old_key_in_an_override_is_refused(capsys, key, value):
    assert main(["pretrain", "-c", "fleet_configs/emoji.yaml", f"{key}={value}"]) == 2
    assert f"{key} is now called {renamed.KEYS[key]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["generate", "--text", "x", "--out", "x.png", "--judge", "model"], ["vocab", "--max-faults=3"]]
)
def test_an_old_option_is_refused(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main(command)
    option = next(word.partition("=")[0] for word in command if word.partition("=")[0] in renamed.OPTIONS)
    assert stop.value.code == 2 and f"{option} is now called {renamed.OPTIONS[option]}" in capsys.readouterr().err
