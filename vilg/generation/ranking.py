"""Which of several drawings fits its text best: by the model that drew them, or by any other scorer."""

from collections.abc import Callable

import numpy as np

from vilg.attention.patterns import IMAGE_TO_TEXT
from vilg.generation.decoding_model import DecodingModel
from vilg.generation.sampling import log_probabilities

# (texts, pictures float32 [B, 3, H, W] in [0, 1]) -> how well each picture fits its text, float [B]: what an image-text
# matcher from outside has to be.
Scorer = Callable[[list[str], np.ndarray], np.ndarray]


def log_likelihood(model: DecodingModel, text: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """log p(text | image) of each pair in nats, float64 [B]: the model reads what it drew.

    text int64 [B, T] as CaptionEncoder makes it, codes int64 [B, n].
    """
    state = model.prefill(IMAGE_TO_TEXT, codes)
    found = np.zeros(len(text))
    counted = text[:, 1:] < model.vocab_size  # the words and EOT; what lies behind is padding
    for place in range(counted.any(0).sum()):
        log_p = log_probabilities(state.step(text[:, place]))
        rows = counted[:, place].nonzero()[0]
        found[rows] += log_p[rows, text[rows, place + 1]]
    return found


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """The numbers of the `count` highest scores, the highest first; of equal ones the earlier."""
    return np.argsort(-scores, kind="stable")[:count]
