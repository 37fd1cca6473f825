"""The training commands: settings in, a finished run out."""

import logging

from vilg import config
from vilg.distributed.world import World
from vilg.text.sequence import max_caption_tokens
from vilg.training.dvae import DVAETraining
from vilg.training.loop import TrainingLoop
from vilg.training.pretraining import Pretraining
from vilg.training.vqgan import VQGANTraining
from vilg.training.vqvae import VQVAETraining

log = logging.getLogger(__name__)

_TOKENIZERS = {"vqvae": VQVAETraining, "vqgan": VQGANTraining, "dvae": DVAETraining}


def pretrain(settings: config.Pretraining) -> None:
    """Pre-train the shared transformer; every rank calls this with the same settings."""
    world = World(settings.distributed)
    settings.train.accumulation(world.ranks)  # refuse a batch that does not divide before anything is read
    with world.fail_together():  # one node may lack a file
        objective = Pretraining(settings, world)
    TrainingLoop(settings, objective, world).run()
    if objective.encode.cut:
        log.warning(
            "%d times a caption had more than text.length - 3 = %d tokens and was cut",
            objective.encode.cut,
            max_caption_tokens(settings.text.length),
        )


def train_image_tokenizer(settings: config.ImageTokenizerTraining) -> None:
    """Train a VQ-VAE, a VQGAN or a dVAE; every rank calls this with the same settings."""
    world = World()
    settings.train.accumulation(world.ranks)
    with world.fail_together():
        objective = _TOKENIZERS[settings.kind](settings, world)
    TrainingLoop(settings, objective, world).run()
