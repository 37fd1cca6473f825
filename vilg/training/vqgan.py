"""The objective of a VQGAN (Esser et al., arXiv 2012.09841, section 3.1), as taming-transformers trains it.

The tokenizer minimizes |x - x'| (or its square, as in equation (4)) + LPIPS + what its quantizer asks for + lambda x
(minus the discriminator's opinion of x'), lambda being equation (7); the discriminator, which begins later, the hinge
loss.
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
from vilg.training.schedules import kl_weight, temperature


class VQGANTraining(ImageTokenizerTraining):
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
        """Whether the discriminator has begun."""
        return self.done >= self.settings.discriminator.start

    def loss_denominators(self, inputs: Inputs) -> dict[str, float]:
        images = float(len(inputs.names))
        return {"vqgan": images, **({"discriminator": images} if self.adversarial else {})}

    def losses(self, inputs: Inputs, model: VQGAN) -> Iterator[tuple[str, paddle.Tensor]]:
        images = inputs.images * 2.0 - 1.0
        z_emb, quantization = self._quantized(model, inputs.images)
        drawn = model.decode_raw(z_emb)
        value, gradient = self._reconstruction_losses(images, drawn, model.decoder.conv_out.weight)
        yield "vqgan", (loss_with_gradient(value, drawn, gradient) + quantization) * len(inputs.names)
        if self.adversarial:
            real, fake = self.discriminator(images), self.discriminator(drawn.detach())
            self.parts |= {"logits_real": real.mean(), "logits_fake": fake.mean()}
            yield "discriminator", hinge_loss(real, fake) * len(inputs.names)

    def _quantized(self, model: VQGAN, images: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """z_emb [B, h, w, d] with gradients, and the quantizer's own part of the loss."""
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

    def _reconstruction_losses(self, images: paddle.Tensor, drawn: paddle.Tensor, last: paddle.Tensor):
        """The losses of what is drawn: their value, and their gradient at the images drawn.

        From the latter all others follow, those at the last layer (equation (7)) as well as those of the update, so
        LPIPS and the discriminator are gone through only once.
        """
        seen = drawn.detach()
        seen.stop_gradient = False
        difference = seen - images
        absolute = difference.abs().mean()
        self.parts |= {"l1": absolute}
        reconstruction = difference.square().mean() if self.settings.pixel_loss.kind == "l2" else absolute
        if self.lpips and self.done >= self.settings.perceptual.start:
            self.parts |= {"lpips": self.lpips(*random_crop(self.settings.perceptual.crop, images, seen)).mean()}
            reconstruction = reconstruction + self.settings.perceptual.weight * self.parts["lpips"]
        (gradient,) = paddle.grad(reconstruction, seen)
        if not self.adversarial:
            return reconstruction.detach(), gradient
        with frozen_parameters(self.discriminator):
            generator_loss = -self.discriminator(seen).mean()
            (adversarial,) = paddle.grad(generator_loss, seen)
        at_last = [paddle.grad(drawn, last, one, retain_graph=True)[0] for one in (gradient, adversarial)]
        weight = self.settings.discriminator.weight * adaptive_weight(*at_last)
        self.parts |= {"generator_loss": generator_loss, "adaptive_weight": weight}
        return (reconstruction + weight * generator_loss).detach(), gradient + weight * adversarial


def random_crop(side: int, *images: paddle.Tensor) -> list[paddle.Tensor]:
    """One square of `side` pixels, drawn by Paddle's random numbers, out of all images [B, 3, H, W]; 0: these."""
    if not side:
        return list(images)
    top, left = (paddle.randint(0, space - side + 1, [1]).item() for space in images[0].shape[2:])
    return [one[:, :, top : top + side, left : left + side] for one in images]


def loss_with_gradient(value: paddle.Tensor, at: paddle.Tensor, gradient: paddle.Tensor) -> paddle.Tensor:
    """A loss of this value, whose gradient at `at` is `gradient`."""
    line = (at * gradient).sum()
    return line + (value - line).detach()


@contextmanager
def frozen_parameters(layer: nn.Layer):
    """What is computed in this block has no gradients at the parameters, which saves their time."""
    learned = [parameter for parameter in layer.parameters() if not parameter.stop_gradient]
    for parameter in learned:
        parameter.stop_gradient = True
    yield
    for parameter in learned:
        parameter.stop_gradient = False
