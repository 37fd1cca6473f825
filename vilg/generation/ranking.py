"""Which of several drawings fits its text best: by the model that drew them, or by any other judge."""

from collections.abc import Callable

import numpy as np
import paddle
import paddle.nn.functional as F

from vilg.attention.patterns import IMAGE_TO_TEXT
from vilg.model.transformer import Transformer, targets

# (texts, pictures float32 [B, 3, H, W] in [0, 1]) -> how well each picture fits its text, float [B]: what an image-text
# matcher from outside has to be.
Judge = Callable[[list[str], np.ndarray], np.ndarray]

_AT_ONCE = 16


@paddle.no_grad()
def log_likelihood(model: Transformer, text: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """log p(text | image) of each pair in nats, float64 [B]: the model reads what it drew.

    text int64 [B, T], codes int64 [B, n]; `model` is in evaluation mode.
    """
    found = []
    for first in range(0, len(text), _AT_ONCE):
        words, image = (paddle.to_tensor(part[first : first + _AT_ONCE]) for part in (text, codes))
        ids, counted = targets(IMAGE_TO_TEXT, words, image, model.vocabulary)
        logits = model(IMAGE_TO_TEXT, words, image).astype("float32")
        nll = F.cross_entropy(logits, ids, reduction="none").reshape(ids.shape)
        found.append(-(nll * counted.astype("float32")).sum(-1).numpy().astype(np.float64))
    return np.concatenate(found)


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """The numbers of the `count` highest scores, the highest first; of equal ones the earlier."""
    return np.argsort(-scores, kind="stable")[:count]
