"""Which checkpoint a run continues from, whether it fits the settings, and loading it."""

import logging

from vilg import checkpoint, config
from vilg.checkpoint import CheckpointReader, Location, Manifest
from vilg.checkpoint.storage import split_location
from vilg.config import TrainingSettings
from vilg.distributed.engine import Engine
from vilg.distributed.world import World
from vilg.errors import SettingsError, UserError, os_reason
from vilg.training.discriminators import Adversaries
from vilg.training.objective import Objective
from vilg.training.resume_checks import check_no_steps_are_lost, check_run_dir, check_steps_left
from vilg.training.settings_changes import changed_settings, group_by_effect, refused_changes

log = logging.getLogger(__name__)


def choose_checkpoint(settings: TrainingSettings, folder: Location, world: World) -> Location | None:
    """The checkpoint that `resume` selects, or None; `folder` has the checkpoints of the run. All ranks call this.

    Raises UserError if the run has later checkpoints, which would not belong to its continuation, or if it has trained
    further than its checkpoints in `folder` explain.
    """
    resume = settings.resume
    if resume.step is not None:
        with world.fail_together():
            _check_step_exists(folder, resume.step)
    chosen = checkpoint.resolve_resume(resume.checkpoint, folder, world, settings.checkpoint.initial_load_path)
    with world.fail_together():
        start = 0 if chosen is None else checkpoint.read_manifest(chosen).step
        later = checkpoint.checkpoints_after(folder, start) if resume.checkpoint != "auto" else []
        if later and (chosen is None or "later_checkpoints" not in resume.allow):
            allow = "" if chosen is None else ", or set resume.allow=[later_checkpoints] to remove them"
            raise UserError(
                f"{later[-1]}: this run has checkpoints after step {start}; continue it with resume=auto, or start a "
                f"new run with another run.name{allow}"
            )
        if world.is_rank_zero:
            check_no_steps_are_lost(settings, folder, start)
            if chosen is None and resume.checkpoint == "auto":
                log.info("%s: no checkpoint, the run starts at step 1", folder)
    return chosen


def check_changes(chosen: Location, manifest: Manifest, settings: TrainingSettings, own: bool, quiet: bool) -> None:
    """Print every setting that differs from those of the checkpoint.

    own: whether this is a checkpoint of the run itself. quiet: check without printing. Raises UserError for a change
    that cannot be meant, or that `resume.allow` has to name.
    """
    show = logging.DEBUG if quiet else logging.INFO
    try:
        stored = config.from_tree(type(settings), manifest.settings, str(chosen))
    except SettingsError as error:  # of another kind of run; loading will say what does not fit
        log.log(show, "the settings of the checkpoint cannot be compared: %s", error)
        return
    for effect, changes in group_by_effect(changed_settings(stored, settings)).items():
        log.log(show, "changed since this checkpoint (%s): %s", effect, ", ".join(map(str, changes)))
    if own:
        check_run_dir(settings, stored)
    if not check_steps_left(settings, stored, chosen, manifest.step, own, show):
        return
    refused = [
        change
        for change in refused_changes(stored, settings, manifest.step, manifest.consumed_samples)
        if change.name not in settings.resume.allow
    ]
    if refused:
        raise SettingsError(
            f"{chosen}: {'; '.join(change.reason for change in refused)}; if this is meant, set "
            f"resume.allow=[{','.join([*settings.resume.allow, *(change.name for change in refused)])}]"
        )


def remove_later_checkpoints(settings: TrainingSettings, folder: Location, step: int, world: World) -> None:
    """Remove the run's checkpoints after `step` if the user has named one to go back to and allowed it.

    Otherwise resume=auto, which restarts use, would take one of them.
    """
    if settings.resume.checkpoint == "auto":
        return
    with world.fail_together():
        for path in checkpoint.checkpoints_after(folder, step) if world.is_rank_zero else []:
            storage, name = split_location(path)
            try:
                storage.remove(name)
            except OSError as error:
                raise UserError(f"{path}: cannot be removed ({os_reason(error)})") from None
            log.info("removed %s (resume.allow=later_checkpoints)", path)


def _check_step_exists(folder: Location, step: int) -> None:
    steps = [checkpoint.step_of(path) for path in checkpoint.checkpoints_in(folder)]
    if step not in steps:
        raise UserError(f"resume=step:{step}: {folder} has steps {', '.join(map(str, steps)) or 'of no checkpoint'}")


def check_compatible(
    chosen: Location, manifest: Manifest, settings: TrainingSettings, tokenizers: dict[str, str], data: dict
) -> None:
    """Raise UserError for a checkpoint with other tokenizers, other data, or another model.

    tokenizers: fingerprints of those of the settings. data: the fingerprint of the settings' data.

    Compares the model settings that no tensor shape reveals. With other data, samples would come in another order.
    """
    for kind, tokenizer in tokenizers.items():
        if manifest.tokenizers.get(kind) != tokenizer:
            raise UserError(f"{chosen}: trained with another {kind} tokenizer than these settings name")
    model = getattr(settings, "model", None)  # an image tokenizer has no such section
    for name in ("heads", "conv_kernel") if model and "model" in manifest.settings else ():
        stored, ours = manifest.settings["model"][name], getattr(model, name)
        if stored != ours:
            raise UserError(f"{chosen}: a checkpoint of another model: model.{name} is {stored} there and {ours} here")
    other = [
        f"{name} {manifest.data.get(name)!s:.12} there and {value!s:.12} here"
        for name, value in data.items()
        if manifest.data.get(name) != value
    ]
    if other and not settings.data.may_change:
        raise UserError(
            f"{chosen}: trained on other data, or on these in another order ({'; '.join(other)}); "
            "set data.may_change=true to continue with the data there is now"
        )


def load_states(reader: CheckpointReader, engine: Engine, adversaries: Adversaries, objective: Objective) -> None:
    """Load the states of a verified checkpoint. Raises UserError for a checkpoint of another model."""
    extra = [name for name in reader.shapes if name.startswith("extra/")]
    adversarial, own = adversaries.partition(
        {name: shape for name, shape in reader.shapes.items() if name not in extra}
    )
    try:
        engine.load_state(own, reader.range)
        adversaries.load_state(adversarial, reader.range)
    except UserError as error:
        raise UserError(f"{reader.checkpoint}: {error}") from None
    engine.loss_scale = reader.manifest.loss_scale
    objective.load_state({name.removeprefix("extra/"): reader.tensor(name) for name in extra})
