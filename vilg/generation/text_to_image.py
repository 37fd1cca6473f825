"""Text to image: codes are generated one at a time with cached keys and values."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vilg.attention.patterns import TEXT_TO_IMAGE
from vilg.errors import UserError
from vilg.generation.decoding_model import DecodingModel, DecodingState, start_decoding
from vilg.generation.sampling import Sampling


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: logits = unconditional + scale x (conditional - unconditional).

    nothing: token ids [T] of the empty caption. The model has to be trained with `train.caption_dropout`.
    """

    scale: float
    nothing: np.ndarray

    def __post_init__(self):
        if not 0 <= self.scale <= 1e6:  # larger scales overflow
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
    """Text ids int64 [P, T] -> codes int64 [P samples, h, w]; images of one text are next to each other.

    prefix_codes: int64 [P, k], codes that all images of a text begin with. on_code: called after each code with all
    codes so far, int64 [P samples, k]. Each text is encoded once.
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
    """Like `generate_codes`, but yields the codes so far after each code: int64 [P samples, 1], .. [P samples, h w]."""
    count = model.grid[0] * model.grid[1]
    prefix_length = 0 if prefix_codes is None else prefix_codes.shape[1]
    codes = np.empty([len(text) * samples, count], np.int64)
    choose = sampling.start(len(text), samples)
    state = _GuidedState(model, text, samples, guidance)
    logits = state.first()
    for position in range(count):
        if prefix_codes is not None and position < prefix_length:
            codes[:, position] = prefix_codes[:, position].repeat(samples)
        else:
            codes[:, position] = choose(logits)
        yield codes[:, : position + 1]
        if position + 1 < count:
            logits = state.step(codes[:, position])


class _GuidedState:
    """The state for the captions and, with guidance, another one for the empty caption."""

    def __init__(self, model: DecodingModel, text: np.ndarray, samples: int, guidance: Guidance | None):
        self._conditional = start_decoding(model, TEXT_TO_IMAGE, text, samples)
        self._scale = np.float32(1.0)
        self._unconditional: DecodingState | None = None
        if guidance is not None and guidance.scale != 1:
            self._scale = np.float32(guidance.scale)
            self._unconditional = start_decoding(model, TEXT_TO_IMAGE, guidance.nothing[None], len(text) * samples)

    def first(self) -> np.ndarray:
        return self._guided(self._conditional.first(), self._unconditional.first() if self._unconditional else None)

    def step(self, ids: np.ndarray) -> np.ndarray:
        return self._guided(self._conditional.step(ids), self._unconditional.step(ids) if self._unconditional else None)

    def _guided(self, conditional: np.ndarray, unconditional: np.ndarray | None) -> np.ndarray:
        return conditional if unconditional is None else unconditional + self._scale * (conditional - unconditional)
