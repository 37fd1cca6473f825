"""Wrong tokens in what the model reads while it trains; what it has to predict stays right.

Of a few thousand pairs a model soon knows each picture by its first codes and each caption by its first word, goes on
from those and forgets what it was asked for; while sampling, one unlucky token then leads to another pair. A model that
cannot trust the tokens before has to look at the source. Not in the paper, whose 145 million pairs nobody learns by
heart: off unless the settings' `noise` is set.
"""

import numpy as np


def corrupt_tokens(
    ids: np.ndarray, may: np.ndarray | bool, most: float, vocab_size: int, seeds: list[int]
) -> np.ndarray:
    """A copy of `ids` int64 [B, N] in which some, where `may` [B, N] holds, are any of the `vocabulary` tokens instead.

    Sample b draws its own share between 0 and `most`, so that clean ones are learned from too, and each of its tokens
    is replaced with that probability. All of it is a function of seeds[b].
    """
    wrong = np.empty_like(ids)
    hit = np.empty(ids.shape, dtype=bool)
    for b, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        hit[b] = rng.random(ids.shape[1]) < most * rng.random()
        wrong[b] = rng.integers(vocab_size, size=ids.shape[1])
    return np.where(hit & may, wrong, ids)
