"""What drawing and writing ask of a model, wherever it runs: that it reads a source and goes on from there."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import paddle


class DecodingState(Protocol):
    """Continuations of sources that have been read: `samples` of each, those of one source behind each other."""

    def first(self) -> np.ndarray:
        """float32 [P samples, codes]: logits of the first code, from BOI. In image_to_text the first word is BOT, and
        given."""

    def step(self, ids: np.ndarray) -> np.ndarray:
        """The tokens int64 [P samples] at the next place of the target -> float32 [P samples, classes], the logits of
        the one behind."""

    def reorder(self, rows: np.ndarray) -> None:
        """Go on with continuations `rows` int64 [P samples]; row i is one of the source of i."""


class DecodingModel(Protocol):
    """A model that reads: trained weights that run in Python (decoder.py), or an export."""

    text_length: int  # T
    grid: tuple[int, int]  # (h, w) image tokens
    vocab_size: int  # entries of the text vocabulary

    def prefill(self, direction: str, source: np.ndarray, samples: int = 1) -> DecodingState:
        """Text ids int64 [P, T] in text_to_image, codes int64 [P, n] in image_to_text. Equal sources are read once."""


def unique_sources(source: np.ndarray) -> tuple[np.ndarray, Callable[[paddle.Tensor], paddle.Tensor]]:
    """The different rows of a source [P, length], and what makes [P, ..] of something [rows, ..] that was read of
    them."""
    numbers: dict[bytes, int] = {}
    of = [numbers.setdefault(row.tobytes(), len(numbers)) for row in source]
    if len(numbers) == len(of):
        return source, lambda read: read
    which = paddle.to_tensor(of)
    return source[[of.index(number) for number in range(len(numbers))]], lambda read: paddle.index_select(read, which)
