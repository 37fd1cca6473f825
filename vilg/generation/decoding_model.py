"""The interface between the decoding loops and the model that they decode with.

A `DecodingModel` encodes the source once (`prefill`) and returns a `DecodingState`, which then computes the logits of
one target token per step. There are two implementations: the trained model in Python (decoder.py) and an exported
program (vilg/export/predictor.py).
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import paddle

from vilg.errors import UserError


class DecodingState(Protocol):
    """Continuations of P encoded sources: `samples` of each source, those of one source next to each other."""

    def first(self) -> np.ndarray:
        """Logits of the first code, float32 [P samples, codebook_size], from BOI.

        Only for text_to_image. In image_to_text the first token is BOT and is passed to `step`.
        """

    def step(self, ids: np.ndarray) -> np.ndarray:
        """Tokens int64 [P samples] at the next target position -> logits of the following token, float32 [P samples,
        classes].
        """

    def reorder(self, rows: np.ndarray) -> None:
        """Continue with the continuations `rows` int64 [P samples]. Row i has to belong to the same source as
        before.
        """


class DecodingModel(Protocol):
    """A model that can be decoded with."""

    text_length: int  # T
    grid: tuple[int, int]  # (h, w) image tokens
    vocab_size: int  # entries of the text vocabulary

    def prefill(self, direction: str, source: np.ndarray, samples: int = 1) -> DecodingState:
        """Encode sources: text ids int64 [P, T] in text_to_image, codes int64 [P, n] in image_to_text. Equal sources
        are encoded once.
        """


def start_decoding(model: DecodingModel, direction: str, source: np.ndarray, samples: int = 1) -> DecodingState:
    """`model.prefill`, with logits that are checked. All decoding and scoring starts here.

    The methods of the state raise UserError if logits are NaN or infinite.
    """
    return _CheckedState(model.prefill(direction, source, samples))


class _CheckedState:
    def __init__(self, state: DecodingState):
        self._state, self.reorder = state, state.reorder

    def first(self) -> np.ndarray:
        return _finite(self._state.first())

    def step(self, ids: np.ndarray) -> np.ndarray:
        return _finite(self._state.step(ids))


def _finite(logits: np.ndarray) -> np.ndarray:
    # Otherwise NaN would become code 0 without an error, and no beam would have a score.
    if not np.isfinite(logits).all():
        raise UserError("the model computes logits that are not finite; its weights are damaged, or training diverged")
    return logits


def unique_sources(source: np.ndarray) -> tuple[np.ndarray, Callable[[paddle.Tensor], paddle.Tensor]]:
    """The distinct rows of a source [P, length], and a function that expands a tensor [rows, ..] of results to [P,
    ..].
    """
    indices: dict[bytes, int] = {}
    of = [indices.setdefault(row.tobytes(), len(indices)) for row in source]
    if len(indices) == len(of):
        return source, lambda read: read
    unique_index = paddle.to_tensor(of)
    return source[[of.index(number) for number in range(len(indices))]], lambda read: paddle.index_select(
        read, unique_index
    )
