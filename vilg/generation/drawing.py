"""Text to image: one code after the other, each from what the layers keep of those before."""

import numpy as np
import paddle

from vilg.attention.patterns import TEXT_TO_IMAGE
from vilg.generation.decoder import Decoder
from vilg.generation.sampling import Sampler
from vilg.model.transformer import Transformer
from vilg.progress import Progress


def draw(model: Transformer, text: np.ndarray, sample: Sampler, samples: int = 1, show_progress: bool = False
         ) -> np.ndarray:
    """Text ids [P, T] -> codes int64 [P samples, h, w]; the drawings of one text stand behind each other.

    `model` is in evaluation mode. A text is read once for all of its drawings.
    """
    height, width = model.grid
    codes = np.empty([len(text) * samples, height * width], np.int64)
    decoder = Decoder(model, TEXT_TO_IMAGE, paddle.to_tensor(text), samples)
    with Progress("drawing", height * width, quiet=not show_progress) as progress:
        logits = decoder.first()
        for place in range(height * width):
            codes[:, place] = sample(logits.numpy())
            if place + 1 < height * width:
                logits = decoder.step(paddle.to_tensor(codes[:, place]))
            progress.advance()
    return codes.reshape([-1, height, width])
