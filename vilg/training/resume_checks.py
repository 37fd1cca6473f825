"""Reasons not to start a run where its settings say: steps that would be lost, or a checkpoint of another run.

A restart with the same settings passes all of these checks as long as the checkpoints of the run are where they were.
"""

import logging
from pathlib import Path

import yaml

from vilg import checkpoint, config
from vilg.checkpoint import Location
from vilg.config import TrainingSettings
from vilg.errors import SettingsError, UserError
from vilg.metrics_jsonl import last_step

log = logging.getLogger(__name__)

# A crash loses the steps since the newest checkpoint: up to two intervals, since a checkpoint is complete only when the
# next one is saved. More intervals than these mean that checkpoints are missing.
_MAX_INTERVALS = 3


def check_steps_left(
    settings: TrainingSettings,
    stored: TrainingSettings,
    chosen: Location,
    step: int,
    own: bool,
    level: int,
) -> bool:
    """Whether a checkpoint of `step` leaves anything to train. If not, say so in one line (at the logging `level`).

    A supervisor may start a finished run again, so this is no error for a checkpoint of the run itself (`own`). Raises
    SettingsError for a checkpoint of another run, and if `train.steps` has been changed to less than the run has done.
    """
    train = settings.train
    name = "stop_at" if train.stop_at and train.stop_at < train.steps else "steps"
    last = getattr(train, name)
    if last > step:
        return True
    shortened = name == "steps" and last < step and stored.train.steps != last
    if not own or shortened:
        raise SettingsError(
            f"train.{name}={last}: {chosen} is at step {step}, so nothing would be trained; a resumed run continues to "
            f"count from there: set train.{name} to more than {step}"
        )
    log.log(level, "train.%s=%d: the run is at step %d, so there is nothing left to train", name, last, step)
    return False


def check_run_dir(settings: TrainingSettings, stored: TrainingSettings) -> None:
    """Raise UserError if the run's own checkpoint was written by a run of the same name in another `run.dir`.

    The two share their checkpoints if `checkpoint.folder` is outside of the run.
    """
    if not settings.checkpoint.folder or "run_dir" in settings.resume.allow:
        return
    if not checkpoint.same_location(Path(stored.run.dir), Path(settings.run.dir)):
        raise UserError(
            f"{settings.checkpoint.directory(settings.run)}: holds checkpoints of the run {stored.run.folder}, not of "
            f"{settings.run.folder}; choose another run.name or checkpoint.folder, or set resume.allow=[run_dir] if "
            "the run has moved"
        )


def check_no_steps_are_lost(settings: TrainingSettings, folder: Location, step: int) -> None:
    """Raise UserError if the run's checkpoints after `step`, where it would continue, are not in `folder`.

    metrics.jsonl tells how far the run has trained. A crash loses the steps since the newest checkpoint, which is not
    refused.
    """
    if "metrics" in settings.resume.allow:
        return
    run = settings.run.folder
    recorded = last_step(run / "metrics.jsonl")
    if recorded <= step:
        return
    earlier = _earlier_settings(settings)
    moved_from = _later_checkpoint_elsewhere(run, folder, step) if earlier else None
    if moved_from is None and not _checkpoints_are_missing(settings, earlier, folder, recorded):
        return
    where = f"they are in {moved_from}" if moved_from else "perhaps their file system is not mounted"
    raise UserError(
        f"{run}: has trained up to step {recorded}, but {folder} has no checkpoint after step {step}; {where}. "
        "Correct checkpoint.folder, choose another run.name, or set resume.allow=[metrics] to train on from step "
        f"{step} and remove the later metrics"
    )


def _earlier_settings(settings: TrainingSettings) -> TrainingSettings | None:
    """The settings with which the run was started before; None if they cannot be read."""
    file = settings.run.folder / "settings.yaml"
    try:
        return config.from_tree(type(settings), yaml.safe_load(file.read_text("utf-8")), str(file))
    except (OSError, ValueError, AttributeError, yaml.YAMLError, SettingsError):
        return None


def _later_checkpoint_elsewhere(run: Path, folder: Location, step: int) -> Location | None:
    """The folder of the run's earlier checkpoints if it is another one and has a checkpoint after `step`."""
    before = checkpoint.checkpoint_folder(run)
    if checkpoint.same_location(before, folder):
        return None
    return before if _newest_step(before) > step else None


def _checkpoints_are_missing(
    settings: TrainingSettings, earlier: TrainingSettings | None, folder: Location, recorded: int
) -> bool:
    """Whether a run with these settings would have saved a checkpoint that is newer than those in `folder`."""
    known = [one.checkpoint for one in (settings, earlier) if one]
    if not all(one.every_steps and one.on_failure == "stop" for one in known):
        return False
    return recorded > _newest_step(folder) + _MAX_INTERVALS * max(one.every_steps for one in known)


def _newest_step(folder: Location) -> int:
    """The step of the newest checkpoint, valid or not; 0 without one."""
    try:
        return max((checkpoint.step_of(path) or 0 for path in checkpoint.checkpoints_in(folder)), default=0)
    except (OSError, UserError):  # cannot be listed
        return 0
