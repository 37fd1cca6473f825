"""Settings keys and values that had other names in earlier versions.

A user who gives an old name gets an error that names the new one. Settings that were stored by an earlier version (in a
checkpoint, or next to an image tokenizer) are translated when they are read.
"""

from vilg.errors import SettingsError

_SIZES = {
    "attention": "attention_factors",
    "codes": "codebook_size",
    "commitment": "commitment_weight",
    "latent": "latent_channels",
    "multipliers": "channel_multipliers",
    "width": "base_channels",
}
_OF_KIND = {
    "vqvae": ("codes", "commitment", "width"),
    "vqgan": tuple(_SIZES),
    "dvae": ("codes", "width"),
}

# old key: new key
KEYS = {
    "cluster.restarts": "cluster.max_restarts",
    "data.max_faults": "data.max_bad_samples",
    "likelihood.least_scale": "logit_laplace.min_scale",
    "noise.drawn": "input_noise.target_image",
    "noise.seen": "input_noise.source_image",
    "noise.written": "input_noise.target_text",
    "perceptual.weights": "perceptual.path",
    "pixels.error": "pixel_loss.kind",
    "relaxation.end": "gumbel.temperature_end",
    "relaxation.kl_until": "gumbel.kl_until",
    "relaxation.kl_weight": "gumbel.kl_weight",
    "relaxation.start": "gumbel.temperature_start",
    "relaxation.until": "gumbel.temperature_until",
    "residual.lr": "residual.lr_scale",
    "tokenize.batch": "tokenize.batch_size",
    "tokenize.part": "tokenize.images_per_file",
    "train.clip": "train.max_grad_norm",
    "train.draw_every": "train.sample_images_every",
    "train.drop_caption": "train.caption_dropout",
    "train.final_lr": "train.min_lr_ratio",
    "train.measure_every": "train.eval_every",
    **{f"{kind}.{old}": f"{kind}.{_SIZES[old]}" for kind, names in _OF_KIND.items() for old in names},
}
# old option of a command: new option
OPTIONS = {"--judge": "--scorer", "--max-faults": "--max-bad-samples"}
# new key: {old value: new value}
VALUES = {
    "codebook.update": {"average": "ema"},
    "pixel_loss.kind": {"absolute": "l1", "squared": "l2"},
}


def refuse_old_names(tree: dict, origin: str) -> None:
    """Raise SettingsError, naming the new name, if `tree` (nested dicts of a user's settings) has an old one."""
    for key, value in _flatten(tree).items():
        if key in KEYS:
            raise SettingsError(f"{origin}: {key} is now called {KEYS[key]}")
        if isinstance(value, str) and value in VALUES.get(key, {}):
            raise SettingsError(f"{origin}: {key}: the value {value} is now called {VALUES[key][value]}")


def translate(tree: dict, section: str = "") -> dict:
    """A copy of stored settings (nested dicts) in which old keys and values have their new names.

    section: the name of the section that `tree` is, if it is not a tree of all sections.
    """
    translated: dict = {}
    for key, value in _flatten({section: tree} if section else tree).items():
        new = KEYS.get(key, key)
        if isinstance(value, str):
            value = VALUES.get(new, {}).get(value, value)
        *path, name = new.split(".")
        place = translated
        for part in path:
            place = place.setdefault(part, {})
        place[name] = value
    return translated.get(section, {}) if section else translated


def original_names(section: str, values: dict) -> dict:
    """The values of one section under the keys that they had first.

    Fingerprints of image tokenizers are hashes over these, so that renaming a key changes no fingerprint.
    """
    first = {new: old for old, new in KEYS.items()}
    return {
        first.get(f"{section}.{name}", f"{section}.{name}").partition(".")[2]: value for name, value in values.items()
    }


def _flatten(tree: dict, prefix: str = "") -> dict:
    flat: dict = {}
    for key, value in tree.items():
        # An empty dict is a value (cluster.environment), and so is what a free-form dict holds.
        if isinstance(value, dict) and value and not prefix:
            flat |= _flatten(value, f"{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
