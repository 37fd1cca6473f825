"""Input noise: random tokens replace some of the input tokens in training. The targets are not changed.

With a few thousand pairs, a model soon recognises each image by its first codes and each caption by its first tokens,
and ignores the source. In sampling, one unlucky token then leads to another pair. A model that cannot rely on the
preceding tokens has to use the source. This is not in the paper, which has 145 million pairs: it is off unless the
section `input_noise` of the settings is set.
"""

import numpy as np


def corrupt_tokens(
    ids: np.ndarray, may_replace: np.ndarray | bool, max_share: float, vocab_size: int, seeds: list[int]
) -> np.ndarray:
    """A copy of `ids` int64 [B, N] in which some tokens, where `may_replace` [B, N] holds, are replaced by random
    ones below `vocab_size`.

    Each sample draws a share between 0 and `max_share` (so that some samples stay almost clean), and each of its
    tokens is replaced with this probability. Everything random is a function of seeds[b].
    """
    wrong = np.empty_like(ids)
    hit = np.empty(ids.shape, dtype=bool)
    for b, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        hit[b] = rng.random(ids.shape[1]) < max_share * rng.random()
        wrong[b] = rng.integers(vocab_size, size=ids.shape[1])
    return np.where(hit & may_replace, wrong, ids)
