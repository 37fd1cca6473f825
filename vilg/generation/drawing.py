"""Text to image: one code after the other, each from what the layers keep of those before."""

from dataclasses import dataclass

import numpy as np
import paddle

from vilg.attention.patterns import TEXT_TO_IMAGE
from vilg.errors import UserError
from vilg.generation.decoder import Decoder
from vilg.generation.sampling import Sampler
from vilg.model.transformer import Transformer
from vilg.progress import Progress


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: logits go `scale` times as far from those without a caption as those with it.

    nothing: the ids [T] of the empty caption, which the model has met if `train.drop_caption` was set.
    """

    scale: float
    nothing: np.ndarray

    def __post_init__(self):
        if not 0 <= self.scale < float("inf"):
            raise UserError(f"--guidance {self.scale}: must not be negative")


def draw(model: Transformer, text: np.ndarray, sample: Sampler, samples: int = 1, guidance: Guidance | None = None,
         begun: np.ndarray | None = None, show_progress: bool = False) -> np.ndarray:
    """Text ids [P, T] -> codes int64 [P samples, h, w]; the drawings of one text stand behind each other.

    begun: int64 [P, k], codes that every drawing of a text begins with. `model` is in evaluation mode. A text is read
    once for all of its drawings.
    """
    height, width = model.grid
    given = 0 if begun is None else begun.shape[1]
    codes = np.empty([len(text) * samples, height * width], np.int64)
    told = _Told(model, text, samples, guidance)
    with Progress("drawing", height * width, quiet=not show_progress) as progress:
        logits = told.first()
        for place in range(height * width):
            codes[:, place] = begun[:, place].repeat(samples) if place < given else sample(logits.numpy())
            if place + 1 < height * width:
                logits = told.step(paddle.to_tensor(codes[:, place]))
            progress.advance()
    return codes.reshape([-1, height, width])


class _Told:
    """A decoder that has been told the captions, and with guidance another that has been told nothing."""

    def __init__(self, model: Transformer, text: np.ndarray, samples: int, guidance: Guidance | None):
        self._told = Decoder(model, TEXT_TO_IMAGE, paddle.to_tensor(text), samples)
        self._scale, self._untold = 1.0, None
        if guidance is not None and guidance.scale != 1:
            self._scale = guidance.scale
            self._untold = Decoder(model, TEXT_TO_IMAGE, paddle.to_tensor(guidance.nothing[None]), len(text) * samples)

    def first(self) -> paddle.Tensor:
        return self._guided(self._told.first(), self._untold and self._untold.first())

    def step(self, ids: paddle.Tensor) -> paddle.Tensor:
        return self._guided(self._told.step(ids), self._untold and self._untold.step(ids))

    def _guided(self, told: paddle.Tensor, untold: paddle.Tensor | None) -> paddle.Tensor:
        return told if untold is None else untold + self._scale * (told - untold)
