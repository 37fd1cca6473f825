"""What differs between the settings of a run and those stored in the checkpoint that it resumes.

Every difference is printed. A difference is refused if it changes the training by more than a factor of MAX_FACTOR at
the next step, unless `resume.allow` has the name of its kind. With equal settings nothing is refused, so that a restart
needs nobody.
"""

from collections.abc import Iterator
from typing import NamedTuple

from vilg import config
from vilg.config import TrainingSettings
from vilg.training.schedules import learning_rate

MAX_FACTOR = 2.0

# How to start, which is another value at each start.
_OF_THE_START = ("resume", "init", "checkpoint.initial_load_path")
# {what it affects: keys and sections}; the longest match counts.
_EFFECTS = {
    "training": ("train",),
    "batch": ("train.global_batch", "train.rampup_batch_size"),
    "losses and regularization": (
        *("loss", "input_noise", "train.caption_dropout", "model.dropout", "codebook", "dead_codes", "residual"),
        *("autoencoder", "gumbel", "logit_laplace", "pixel_loss", "perceptual", "discriminator"),
        *("vqvae.commitment_weight", "vqgan.commitment_weight"),
    ),
    "model and data": ("model", "kind", "vqvae", "vqgan", "dvae", "data", "text", "image_tokenizer", "run.seed"),
    "hardware, files and reports": (
        *("run", "checkpoint", "distributed", "cluster", "attention", "tokenize", "data.threads", "data.heldout"),
        *("data.max_bad_samples", "data.may_change", "train.micro_batch", "train.stop_at", "train.eval_every"),
        *("train.eval_every_minutes", "train.sample_images_every_minutes"),
        *("train.sample_images_every", "train.profile", "train.profile_ranks", "train.peak_tflops", "perceptual.path"),
    ),
}
_SCHEDULE = tuple(f"train.{key}" for key in ("lr", "steps", "warmup", "schedule", "decay_steps", "min_lr_ratio"))
# {name in resume.allow: keys whose value may change by MAX_FACTOR at most; a text may not change}
_LIMITED = {
    "optimizer": ("train.beta1", "train.beta2", "train.adam_epsilon", "train.weight_decay", "train.max_grad_norm"),
    "losses": (
        *("loss.text_to_image", "loss.image_to_text", "loss.z_loss", "loss.normalization", "pixel_loss.kind"),
        *("vqvae.commitment_weight", "vqgan.commitment_weight", "perceptual.weight", "discriminator.weight"),
        *("gumbel.kl_weight", "codebook.update"),
    ),
}


class Change(NamedTuple):
    """A setting with another value; None if there is no such setting in the checkpoint or now."""

    key: str
    old: object
    new: object

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


class Refusal(NamedTuple):
    """A change that is refused unless `resume.allow` has `name`."""

    name: str
    reason: str


def changed_settings(old: TrainingSettings, new: TrainingSettings) -> list[Change]:
    """The settings that differ, in the order of the schema, without those that say how to start."""
    before, after = _flatten(config.as_tree(old)), _flatten(config.as_tree(new))
    return [
        Change(key, before.get(key), after.get(key))
        for key in [*after, *(before.keys() - after.keys())]
        if before.get(key) != after.get(key) and not any(_is_in(key, start) for start in _OF_THE_START)
    ]


def group_by_effect(changes: list[Change]) -> dict[str, list[Change]]:
    """{what the changes affect: changes}"""
    groups: dict[str, list[Change]] = {}
    for change in changes:
        groups.setdefault(_effect(change.key), []).append(change)
    return groups


def refused_changes(old: TrainingSettings, new: TrainingSettings, step: int, consumed: int) -> Iterator[Refusal]:
    """The changes between a checkpoint of `step`, after `consumed` samples, and its continuation that are unlikely to
    be meant.
    """
    changes = changed_settings(old, new)
    # The schedule of the checkpoint may have ended.
    rates = learning_rate(old.train, min(step + 1, old.train.steps)), learning_rate(new.train, step + 1)
    batches = old.train.rampup.at(consumed), new.train.rampup.at(consumed)
    for name, what, values, keys in (
        ("learning_rate", "learning rate", rates, _SCHEDULE),
        ("global_batch", "batch", batches, _EFFECTS["batch"]),
    ):
        if _is_jump(*values):
            causes = ", ".join(str(change) for change in changes if change.key in keys)
            yield Refusal(
                name, f"the {what} of step {step + 1} would be {values[1]:.3g}, not {values[0]:.3g} ({causes})"
            )
    for name, keys in _LIMITED.items():
        jumps = [
            str(change)
            for change in changes
            if change.key in keys and _is_jump(_scale(change.key, change.old), _scale(change.key, change.new))
        ]
        if jumps:
            yield Refusal(name, ", ".join(jumps))


def _scale(key: str, value: object) -> object:
    """The value whose factor matters: an average with decay beta spans about 1 / (1 - beta) steps."""
    return 1 - value if key in ("train.beta1", "train.beta2") and isinstance(value, float) else value


def _is_jump(old: object, new: object) -> bool:
    """Whether two values differ by more than MAX_FACTOR. Zero differs from every other value."""
    if not (isinstance(old, int | float) and isinstance(new, int | float)):
        return old != new
    low, high = sorted((old, new))
    return high > low * MAX_FACTOR * (1 + 1e-9)


def _effect(key: str) -> str:
    matches = [(len(place), effect) for effect, places in _EFFECTS.items() for place in places if _is_in(key, place)]
    return max(matches)[1] if matches else "other settings"


def _is_in(key: str, place: str) -> bool:
    return key == place or key.startswith(f"{place}.")


def _flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    """Nested dicts as {dotted key: value}."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
