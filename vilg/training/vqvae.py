"""The objective of a VQ-VAE: equation (1) of the paper, with the beta of van den Oord et al. (arXiv 1711.00937)."""

from collections.abc import Iterator

import paddle

from vilg.image.vqvae import VQVAE
from vilg.training.image_tokenizer import ImageTokenizerTraining, Inputs


class VQVAETraining(ImageTokenizerTraining):
    """Trains a VQ-VAE; see the module."""

    def losses(self, inputs: Inputs, model: VQVAE) -> Iterator[tuple[str, paddle.Tensor]]:
        loss, self.parts, features, indices = model.losses(inputs.images, self.quantizes)
        if self.quantizes:
            self.codebook.add(indices, features)
        yield "vqvae", loss * len(inputs.names)
