"""Ranks generated images by how well they fit their text."""

from collections.abc import Callable

import numpy as np

from vilg.attention.patterns import IMAGE_TO_TEXT
from vilg.generation.decoding_model import DecodingModel, start_decoding
from vilg.generation.sampling import log_probabilities

# (texts, images float32 [B, 3, H, W] in [0, 1]) -> how well each image fits its text, float [B]; for example an
# image-text matcher.
Scorer = Callable[[list[str], np.ndarray], np.ndarray]


def log_likelihood(model: DecodingModel, text: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """log p(text | image) of each pair in nats, float64 [B], by the model that generated the images.

    text: int64 [B, T] from CaptionEncoder. codes: int64 [B, n].
    """
    state = start_decoding(model, IMAGE_TO_TEXT, codes)
    totals = np.zeros(len(text))
    counted = text[:, 1:] < model.vocab_size  # text tokens and EOT; everything after that is padding
    for position in range(counted.any(0).sum()):
        log_p = log_probabilities(state.step(text[:, position]))
        rows = counted[:, position].nonzero()[0]
        totals[rows] += log_p[rows, text[rows, position + 1]]
    return totals


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` highest scores, highest first; earlier ones first among equals."""
    return np.argsort(-scores, kind="stable")[:count]
