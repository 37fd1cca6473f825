"""Text to image: one code after the other, each from what the model keeps of those before."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vilg.attention.patterns import TEXT_TO_IMAGE
from vilg.errors import UserError
from vilg.generation.reader import Reader
from vilg.generation.sampling import Sampling


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: logits go `scale` times as far from those without a caption as those with it.

    nothing: the ids [T] of the empty caption, which the model has met if `train.drop_caption` was set.
    """

    scale: float
    nothing: np.ndarray

    def __post_init__(self):
        if not 0 <= self.scale <= 1e6:  # beyond that logits would overflow
            raise UserError(f"--guidance {self.scale}: must be between 0 and a million")


def draw(
    reader: Reader,
    text: np.ndarray,
    sampling: Sampling,
    samples: int = 1,
    guidance: Guidance | None = None,
    begun: np.ndarray | None = None,
    on_code: Callable[[np.ndarray], None] | None = None,
) -> np.ndarray:
    """Text ids int64 [P, T] -> codes int64 [P samples, h, w]; the drawings of one text stand behind each other.

    begun: int64 [P, k], codes that every drawing of a text begins with. `on_code` is given the codes so far, int64
    [P samples, k], after each. A text is read once for all of its drawings.
    """
    for codes in drawing(reader, text, sampling, samples, guidance, begun):
        if on_code:
            on_code(codes)
    return codes.reshape([-1, *reader.grid])


def drawing(
    reader: Reader,
    text: np.ndarray,
    sampling: Sampling,
    samples: int = 1,
    guidance: Guidance | None = None,
    begun: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """As `draw`, after each code: the codes so far, int64 [P samples, 1], .. [P samples, h w]."""
    count = reader.grid[0] * reader.grid[1]
    given = 0 if begun is None else begun.shape[1]
    codes = np.empty([len(text) * samples, count], np.int64)
    choose = sampling.start(len(text), samples)
    told = _Told(reader, text, samples, guidance)
    logits = told.first()
    for place in range(count):
        codes[:, place] = begun[:, place].repeat(samples) if place < given else choose(logits)
        yield codes[:, : place + 1]
        if place + 1 < count:
            logits = told.step(codes[:, place])


class _Told:
    """A reading of the captions, and with guidance another of nothing."""

    def __init__(self, reader: Reader, text: np.ndarray, samples: int, guidance: Guidance | None):
        self._told = reader.read(TEXT_TO_IMAGE, text, samples)
        self._scale, self._untold = np.float32(1.0), None
        if guidance is not None and guidance.scale != 1:
            self._scale = np.float32(guidance.scale)
            self._untold = reader.read(TEXT_TO_IMAGE, guidance.nothing[None], len(text) * samples)

    def first(self) -> np.ndarray:
        return self._guided(self._told.first(), self._untold and self._untold.first())

    def step(self, ids: np.ndarray) -> np.ndarray:
        return self._guided(self._told.step(ids), self._untold and self._untold.step(ids))

    def _guided(self, told: np.ndarray, untold: np.ndarray | None) -> np.ndarray:
        return told if untold is None else untold + self._scale * (told - untold)
