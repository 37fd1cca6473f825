"""The objective of a dVAE: the evidence lower bound (Ramesh et al., arXiv 2102.12092, section 2.1 and appendix A).

As in that paper it is divided by the number of pixels x channels.
"""

from collections.abc import Iterator

import paddle

from vilg import config
from vilg.distributed.world import World
from vilg.image.dvae import DVAE, map_pixels
from vilg.image.gumbel_softmax import gumbel_softmax, kl_to_uniform
from vilg.image.logit_laplace import negative_log_likelihood, squared_error_and_nll
from vilg.training.image_tokenizer import ImageTokenizerTraining, Inputs
from vilg.training.schedules import kl_weight, temperature

# Logits are squared distances divided by this share of k-means' mean squared distance. The choice then starts with 4 to
# 5 of the 7 nats that identify one of 1,024 codes. A share of 1 gives 3 nats and loses 2 dB at once; with 0.03 only 2%
# of the codes are used.
_SOFTNESS = 0.25
_LEAST_SPREAD = 1e-6  # for data with fewer distinct features than codes


class DVAETraining(ImageTokenizerTraining):
    """Trains a dVAE; see the module."""

    def __init__(self, settings: config.ImageTokenizerTraining, world: World):
        super().__init__(settings, world)
        for block in self.model.residual_blocks():
            block.res_path.conv_4.weight.optimize_attr["learning_rate"] = settings.residual.lr_scale

    def losses(self, inputs: Inputs, model: DVAE) -> Iterator[tuple[str, paddle.Tensor]]:
        logits = model.logits(inputs.images).transpose([0, 2, 3, 1])
        bound = self._lower_bound if self.quantizes else self._without_codes
        yield "dvae", bound(inputs.images, logits, model) * len(inputs.names)

    def _lower_bound(self, images: paddle.Tensor, logits: paddle.Tensor, model: DVAE) -> paddle.Tensor:
        """-ELBO of images [B, 3, H, W] with encoder logits [B, h, w, codes]."""
        self.codebook.add(logits.argmax(-1))
        progress = (self.step - self.settings.first_quantized_step) / (
            self.settings.train.steps - self.settings.first_quantized_step + 1
        )
        heat, weight = temperature(self.settings.gumbel, progress), kl_weight(self.settings.gumbel, progress)
        statistics = model.statistics(model.blend(gumbel_softmax(logits, heat, straight_through=False)))
        likelihood = negative_log_likelihood(map_pixels(images), statistics, self.settings.logit_laplace.min_scale)
        divergence = kl_to_uniform(logits)
        self.parts = {"nll": likelihood, "kl": divergence, "kl_weight": weight, "temperature": heat}
        # The loss is divided by pixels x channels, of which a code represents 3 f^2.
        return likelihood + weight / (3 * model.factor**2) * divergence

    def _without_codes(self, images: paddle.Tensor, logits: paddle.Tensor, model: DVAE) -> paddle.Tensor:
        statistics = model.statistics(model.blend(logits))
        error, likelihood = squared_error_and_nll(map_pixels(images), statistics, self.settings.logit_laplace.min_scale)
        self.parts = {"squared_error": error, "nll": likelihood}
        return error + likelihood

    def autoencode(self, images: paddle.Tensor) -> paddle.Tensor:
        return self.model.blend(self.model.logits(images).transpose([0, 2, 3, 1]))

    def set_codebook(self, codes: paddle.Tensor, spread: float) -> None:
        self.model.set_codebook_by_distance(codes, _SOFTNESS * max(spread, _LEAST_SPREAD))
