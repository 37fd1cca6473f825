"""The objective of a VQ-VAE: equation (1) of the paper, with the beta of van den Oord et al. (arXiv 1711.00937).

With `perceptual.vqvae`, LPIPS is added, without which a VQ-VAE of few codes draws blurred images.
"""

from collections.abc import Iterator

import paddle

from vilg import config
from vilg.distributed.world import World
from vilg.image.vqvae import VQVAE
from vilg.training.image_tokenizer import ImageTokenizerTraining, Inputs
from vilg.training.perceptual import random_crop


class VQVAETraining(ImageTokenizerTraining):
    """Trains a VQ-VAE; see the module."""

    def __init__(self, settings: config.ImageTokenizerTraining, world: World):
        self.perceptual_loss = settings.perceptual.vqvae
        super().__init__(settings, world)

    def losses(self, inputs: Inputs, model: VQVAE) -> Iterator[tuple[str, paddle.Tensor]]:
        loss, self.parts, features, indices, reconstructed = model.losses(inputs.images, self.quantizes)
        if self.quantizes:
            self.codebook.add(indices, features)
        rules = self.settings.perceptual
        if self.perceptual_loss and self.lpips and self.done >= rules.start:
            cropped = random_crop(rules.crop, inputs.images * 2.0 - 1.0, reconstructed)
            self.parts |= {"lpips": self.lpips(*cropped).mean()}
            loss = loss + rules.weight * self.parts["lpips"]
        yield "vqvae", loss * len(inputs.names)
