"""Which checkpoint a run continues from, whether it fits the settings, and loading it."""

from vilg import checkpoint, config
from vilg.distributed.engine import Engine
from vilg.distributed.world import World
from vilg.errors import UserError
from vilg.training.discriminators import Adversaries
from vilg.training.objective import Objective

Settings = config.Pretraining | config.ImageTokenizerTraining


def choose_checkpoint(settings: Settings, folder: checkpoint.Location, world: World) -> checkpoint.Location | None:
    """The checkpoint that `resume` selects; `folder` has the checkpoints of the run. All ranks call this.

    Raises UserError if the run has later checkpoints, which would not belong to its continuation.
    """
    chosen = checkpoint.resolve_resume(settings.resume, folder, world, settings.checkpoint.initial_load_path)
    if settings.resume == "auto":
        return chosen
    with world.fail_together():
        start = 0 if chosen is None else checkpoint.read_manifest(chosen).step
        newer = [path for path in checkpoint.checkpoints_in(folder) if (checkpoint.step_of(path) or 0) > start]
        if newer:
            raise UserError(
                f"{newer[-1]}: this run has checkpoints after step {start}; continue it with resume=auto, or "
                "start a new run with another run.name"
            )
    return chosen


def check_compatible(
    chosen: checkpoint.Location,
    manifest: checkpoint.Manifest,
    settings: Settings,
    tokenizers: dict[str, str],
    data: dict,
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


def load_states(
    reader: checkpoint.CheckpointReader, engine: Engine, adversaries: Adversaries, objective: Objective
) -> None:
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
