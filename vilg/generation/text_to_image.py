"""Text to image: one code after the other, each from what the model keeps of those before."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vilg.attention.patterns import TEXT_TO_IMAGE
from vilg.errors import UserError
from vilg.generation.decoding_model import DecodingModel
from vilg.generation.sampling import Sampling


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: logits go `scale` times as far from those without a caption as those with it.

    nothing: the ids [T] of the empty caption, which the model has met if `train.caption_dropout` was set.
    """

    scale: float
    nothing: np.ndarray

    def __post_init__(self):
        if not 0 <= self.scale <= 1e6:  # beyond that logits would overflow
            raise UserError(f"--guidance {self.scale}: must be between 0 and a million")


def generate_codes(
    model: DecodingModel,
    text: np.ndarray,
    sampling: Sampling,
    samples: int = 1,
    guidance: Guidance | None = None,
    prefix_codes: np.ndarray | None = None,
    on_code: Callable[[np.ndarray], None] | None = None,
) -> np.ndarray:
    """Text ids int64 [P, T] -> codes int64 [P samples, h, w]; the drawings of one text stand behind each other.

    prefix_codes: int64 [P, k], codes that every drawing of a text begins with. `on_code` is given the codes so far, int64
    [P samples, k], after each. A text is read once for all of its drawings.
    """
    for codes in generate_codes_stepwise(model, text, sampling, samples, guidance, prefix_codes):
        if on_code:
            on_code(codes)
    return codes.reshape([-1, *model.grid])


def generate_codes_stepwise(
    model: DecodingModel,
    text: np.ndarray,
    sampling: Sampling,
    samples: int = 1,
    guidance: Guidance | None = None,
    prefix_codes: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """As `generate_codes`, after each code: the codes so far, int64 [P samples, 1], .. [P samples, h w]."""
    count = model.grid[0] * model.grid[1]
    given = 0 if prefix_codes is None else prefix_codes.shape[1]
    codes = np.empty([len(text) * samples, count], np.int64)
    choose = sampling.start(len(text), samples)
    state = _GuidedState(model, text, samples, guidance)
    logits = state.first()
    for place in range(count):
        codes[:, place] = prefix_codes[:, place].repeat(samples) if place < given else choose(logits)
        yield codes[:, : place + 1]
        if place + 1 < count:
            logits = state.step(codes[:, place])


class _GuidedState:
    """A state of the captions, and with guidance another of nothing."""

    def __init__(self, model: DecodingModel, text: np.ndarray, samples: int, guidance: Guidance | None):
        self._conditional = model.prefill(TEXT_TO_IMAGE, text, samples)
        self._scale, self._unconditional = np.float32(1.0), None
        if guidance is not None and guidance.scale != 1:
            self._scale = np.float32(guidance.scale)
            self._unconditional = model.prefill(TEXT_TO_IMAGE, guidance.nothing[None], len(text) * samples)

    def first(self) -> np.ndarray:
        return self._guided(self._conditional.first(), self._unconditional and self._unconditional.first())

    def step(self, ids: np.ndarray) -> np.ndarray:
        return self._guided(self._conditional.step(ids), self._unconditional and self._unconditional.step(ids))

    def _guided(self, conditional: np.ndarray, unconditional: np.ndarray | None) -> np.ndarray:
        return conditional if unconditional is None else unconditional + self._scale * (conditional - unconditional)
