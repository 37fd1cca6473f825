"""The objective of a VQGAN (Esser et al., arXiv 2012.09841, section 3.1), as in taming-transformers.

The tokenizer minimizes |x - x'| (or its square, equation (4)) + LPIPS + the loss of its quantizer - lambda x the
discriminator's logits of x', with lambda of equation (7). The discriminator minimizes the hinge loss and starts later.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import paddle
from paddle import nn

from vilg import config
from vilg.distributed.world import World
from vilg.image.gumbel import GumbelCode
from vilg.image.patchgan import PatchDiscriminator, adaptive_weight, hinge_loss
from vilg.image.vqgan import VQGAN
from vilg.training.image_tokenizer import ImageTokenizerTraining, Inputs
from vilg.training.perceptual import random_crop
from vilg.training.schedules import kl_weight, temperature


class VQGANTraining(ImageTokenizerTraining):
    """Trains a VQGAN and its discriminator; see the module."""

    perceptual_loss = True

    def __init__(self, settings: config.ImageTokenizerTraining, world: World):
        rules, size = settings.discriminator, settings.data.image_size
        least = PatchDiscriminator.min_image_side(rules.layers)
        config.require(
            size >= least,
            f"discriminator.layers={rules.layers}: of an image below {least} pixels a side "
            f"(data.image_size={size}) no patch is left",
        )
        config.require(
            not settings.autoencoder.until or settings.vqgan.quantizer == "nearest",
            f"autoencoder.until={settings.autoencoder.until}: with vqgan.quantizer=gumbel codes are chosen "
            "from the first step on",
        )
        super().__init__(settings, world)
        self.model.initialize_orthogonal()
        self.discriminator = PatchDiscriminator(rules.width, rules.layers)
        self.adversaries = {"discriminator": self.discriminator}

    @property
    def adversarial(self) -> bool:
        """Whether the discriminator has started."""
        return self.done >= self.settings.discriminator.start

    def loss_denominators(self, inputs: Inputs) -> dict[str, float]:
        images = float(len(inputs.names))
        return {"vqgan": images, **({"discriminator": images} if self.adversarial else {})}

    def losses(self, inputs: Inputs, model: VQGAN) -> Iterator[tuple[str, paddle.Tensor]]:
        images = inputs.images * 2.0 - 1.0
        z_emb, quantization = self._quantized(model, inputs.images)
        reconstructed = model.decode_raw(z_emb)
        value, gradient = self._reconstruction_losses(images, reconstructed, model.decoder.conv_out.weight)
        yield "vqgan", (loss_with_gradient(value, reconstructed, gradient) + quantization) * len(inputs.names)
        if self.adversarial:
            real, fake = self.discriminator(images), self.discriminator(reconstructed.detach())
            self.parts |= {"logits_real": real.mean(), "logits_fake": fake.mean()}
            yield "discriminator", hinge_loss(real, fake) * len(inputs.names)

    def _quantized(self, model: VQGAN, images: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor | float]:
        """z_emb [B, h, w, d] with gradients, and the loss of the quantizer."""
        features, quantizer = model.features(images), model.quantizer
        if isinstance(quantizer, GumbelCode):
            rules = self.settings.gumbel
            heat, weight = temperature(rules, self.done), kl_weight(rules, self.done)
            z_emb, indices, divergence = quantizer(features, heat)
            self.parts = {"kl": divergence, "kl_weight": weight, "temperature": heat}
            loss = weight / (3 * model.factor**2) * divergence
        else:
            z_emb, indices, codebook_term, commitment_term = quantizer(features)
            self.parts = {"codebook": codebook_term, "commitment": commitment_term}
            loss = 0.0 if quantizer.uses_ema else codebook_term
            if not self.quantizes:
                return features, loss
            loss = loss + model.settings.commitment_weight * commitment_term
        self.codebook.add(indices, features)
        return z_emb, loss

    def _reconstruction_losses(self, images: paddle.Tensor, reconstructed: paddle.Tensor, last: paddle.Tensor):
        """The value of the losses of `reconstructed`, and their gradient with respect to it.

        All other gradients follow from this one: those at the last layer (equation (7)) and those of the update. LPIPS
        and the discriminator are therefore evaluated only once.
        """
        detached = reconstructed.detach()
        detached.stop_gradient = False
        difference = detached - images
        absolute = difference.abs().mean()
        self.parts |= {"l1": absolute}
        reconstruction = difference.square().mean() if self.settings.pixel_loss.kind == "l2" else absolute
        if self.lpips and self.done >= self.settings.perceptual.start:
            self.parts |= {"lpips": self.lpips(*random_crop(self.settings.perceptual.crop, images, detached)).mean()}
            reconstruction = reconstruction + self.settings.perceptual.weight * self.parts["lpips"]
        (gradient,) = paddle.grad(reconstruction, detached)
        if not self.adversarial:
            return reconstruction.detach(), gradient
        with frozen_parameters(self.discriminator):
            generator_loss = -self.discriminator(detached).mean()
            (adversarial,) = paddle.grad(generator_loss, detached)
        at_last = [
            paddle.grad(reconstructed, last, loss_gradient, retain_graph=True)[0]
            for loss_gradient in (gradient, adversarial)
        ]
        weight = self.settings.discriminator.weight * adaptive_weight(*at_last)
        self.parts |= {"generator_loss": generator_loss, "adaptive_weight": weight}
        return (reconstruction + weight * generator_loss).detach(), gradient + weight * adversarial


def loss_with_gradient(value: paddle.Tensor, at: paddle.Tensor, gradient: paddle.Tensor) -> paddle.Tensor:
    """A scalar with the given value, whose gradient with respect to `at` is `gradient`."""
    line = (at * gradient).sum()
    return line + (value - line).detach()


@contextmanager
def frozen_parameters(layer: nn.Layer):
    """No gradients are computed for the parameters of `layer` in this context, which saves their time."""
    learned = [parameter for parameter in layer.parameters() if not parameter.stop_gradient]
    for parameter in learned:
        parameter.stop_gradient = True
    yield
    for parameter in learned:
        parameter.stop_gradient = False
