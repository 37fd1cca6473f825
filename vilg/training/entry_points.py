"""The training commands: from settings to a finished run."""

import logging
from collections.abc import Callable

from vilg import checkpoint, config
from vilg.distributed.world import World
from vilg.text.sequence import max_caption_tokens
from vilg.training.dvae import DVAETraining
from vilg.training.image_tokenizer import ImageTokenizerTraining
from vilg.training.loop import TrainingLoop
from vilg.training.pretraining import Pretraining
from vilg.training.run_lock import run_lock
from vilg.training.vqgan import VQGANTraining
from vilg.training.vqvae import VQVAETraining

log = logging.getLogger(__name__)

_TOKENIZERS: dict[str, Callable[[config.ImageTokenizerTraining, World], ImageTokenizerTraining]] = {
    "vqvae": VQVAETraining,
    "vqgan": VQGANTraining,
    "dvae": DVAETraining,
}


def pretrain(settings: config.Pretraining) -> None:
    """Pre-train the shared transformer. All ranks call this with the same settings."""
    world = World(settings.distributed)
    settings.train.accumulation(world.ranks)  # check the batch size before anything is read
    with run_lock(settings, world):
        with world.fail_together():  # a file may be missing on one node only
            objective = Pretraining(settings, world)
            starts_anew = not _continues(settings)
        if settings.init.checkpoint and starts_anew:
            objective.load_initial_weights()
        objective.read_heldout()
        TrainingLoop(settings, objective, world).run()
    if objective.encode.truncated:
        log.warning(
            "%d captions had more than text.length - 3 = %d tokens and were truncated",
            objective.encode.truncated,
            max_caption_tokens(settings.text.length),
        )


def _continues(settings: config.Pretraining) -> bool:
    """Whether the run starts from a checkpoint with all of its states, so that `init` has no effect."""
    if settings.resume.checkpoint == "auto":
        own = checkpoint.checkpoints_in(checkpoint.location(settings.checkpoint.directory(settings.run)))
        return bool(own or settings.checkpoint.initial_load_path)
    return settings.resume.checkpoint != "none"


def train_image_tokenizer(settings: config.ImageTokenizerTraining) -> None:
    """Train a VQ-VAE, VQGAN or dVAE. All ranks call this with the same settings."""
    world = World()
    settings.train.accumulation(world.ranks)
    with run_lock(settings, world):
        with world.fail_together():
            objective = _TOKENIZERS[settings.kind](settings, world)
        TrainingLoop(settings, objective, world).run()
