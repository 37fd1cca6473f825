"""Scores are log-likelihoods, in descending order."""

import numpy as np
import paddle

from tests.generation.test_decoding import CODES, GRID, Letters, T, model  # noqa: F401
from vilg.attention.patterns import IMAGE_TO_TEXT
from vilg.generation.decoder import TransformerDecodingModel
from vilg.generation.ranking import best, log_likelihood
from vilg.text.sequence import CaptionEncoder


def test_the_score_is_the_sum_of_the_log_probabilities_of_the_tokens(model):  # noqa: F811
    rng = np.random.default_rng(0)
    words = ["ab", "xyz", "", "q"] * 5
    text = np.stack([CaptionEncoder(Letters(), T)(word) for word in words])
    codes = rng.integers(0, CODES, [len(words), GRID[0] * GRID[1]])
    with paddle.no_grad():
        logits = model(IMAGE_TO_TEXT, paddle.to_tensor(text), paddle.to_tensor(codes)).numpy().astype(np.float64)
    log_p = (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )
    for row, word in enumerate(words):
        following = [*Letters().encode(word), Letters.sep_id]
        expected = sum(log_p[row, place, token] for place, token in enumerate(following))
        assert abs(log_likelihood(TransformerDecodingModel(model), text, codes)[row] - expected) < 1e-4 * abs(expected)


def test_ranking_is_descending_and_stable():
    assert best(np.array([1.0, 3.0, 2.0, 3.0]), 3).tolist() == [1, 3, 2]
