"""The objective of a dVAE: the evidence lower bound (Ramesh et al., arXiv 2102.12092, section 2.1 and appendix A).

As there it is divided by the number of pixels x channels.
"""

from collections.abc import Iterator

import paddle

from vilg.image.dvae import DVAE, map_pixels
from vilg.image.logit_laplace import negative_log_likelihood
from vilg.image.relaxation import divergence_from_even, relaxed_choice
from vilg.training.image_tokenizer import ImageTokenizerTraining, Inputs
from vilg.training.schedules import kl_weight, temperature


class DVAETraining(ImageTokenizerTraining):

    def losses(self, inputs: Inputs, model: DVAE) -> Iterator[tuple[str, paddle.Tensor]]:
        logits = model.logits(inputs.images).transpose([0, 2, 3, 1])
        self.codebook.add(logits.argmax(-1))
        heat = temperature(self.settings.relaxation, self.done)
        z_emb = paddle.matmul(relaxed_choice(logits, heat, straight_through=False), model.codebook)
        likelihood = negative_log_likelihood(map_pixels(inputs.images), model.statistics(z_emb),
                                             self.settings.likelihood.least_scale)
        divergence = divergence_from_even(logits)
        weight = kl_weight(self.settings.relaxation, self.done)
        self.parts = {"nll": likelihood, "kl": divergence, "kl_weight": weight, "temperature": heat}
        # A code stands for 3 f^2 of the pixels x channels by whose number all is divided.
        yield "dvae", (likelihood + weight / (3 * model.factor**2) * divergence) * len(inputs.names)
