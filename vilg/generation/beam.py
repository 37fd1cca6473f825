"""Beam search for captions: the most likely captions instead of the most likely token at each position."""

from collections.abc import Sequence

import numpy as np

from vilg.generation.decoding_model import DecodingModel
from vilg.generation.image_to_text import CaptionDecoder
from vilg.generation.sampling import log_probabilities
from vilg.text.tokenizer import TextTokenizer

Found = list[tuple[float, list[int]]]


def beam_search(
    model: DecodingModel,
    codes: np.ndarray,
    tokenizer: TextTokenizer,
    width: int,
    penalty: float = 1.0,
    prefix: Sequence[int] = (),
) -> list[Found]:
    """Search for the most likely captions of each image, all of which begin with `prefix`.

    codes: int64 [B, n]. Returns, for each image, up to `width` pairs (score, token ids), best first.

    The score is log p(tokens, EOT | image) / (number of tokens + 1)^penalty: penalty 0 prefers short captions, 1
    compares means. [UNK] is never generated, so p is slightly larger than in ranking.log_likelihood. A beam counts as a
    caption wherever it could end. All images are searched together. If `width` is the number of possible captions, the
    search is exhaustive.
    """
    decoder = CaptionDecoder(model, codes, tokenizer, list(prefix), width)
    longest = len(prefix) + decoder.left + 1
    searches = [
        _Search(width, penalty, list(prefix), log_likelihood, tokenizer.sep_id, longest)
        for log_likelihood in decoder.given
    ]
    while True:
        log_p = log_probabilities(decoder.logits()).reshape([len(codes), width, -1])
        moves = [search.advance(of_image) for search, of_image in zip(searches, log_p)]
        if not decoder.left or all(search.done for search in searches):
            return [search.finished for search in searches]
        beams, tokens = (np.concatenate(parts) for parts in zip(*moves))
        decoder.append(tokens, beams + np.arange(len(codes)).repeat(width) * width)


class _Search:
    """The beams of one image. finished: the best captions so far. done: no beam can improve on them."""

    def __init__(self, width: int, penalty: float, prefix: list[int], log_likelihood: float, end: int, longest: int):
        self.width, self.penalty, self.end = width, penalty, end
        self.tokens = [prefix] * width
        self.totals = np.full(width, -np.inf)
        self.totals[0] = log_likelihood  # all beams are identical at the start
        self.finished: Found = []
        self.done = False
        self._most = longest ** max(0.0, penalty)

    def advance(self, log_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Extend the beams. log_p: float64 [width, vocab_size] of the next token of each beam.

        Returns, for each new beam, the index of the beam that it extends and its new token.
        """
        ended_scores = (self.totals + log_p[:, self.end]) / (len(self.tokens[0]) + 1) ** self.penalty
        self.finished += [
            (float(score), self.tokens[beam]) for beam, score in enumerate(ended_scores) if score > -np.inf
        ]
        self.finished = sorted(self.finished, key=lambda caption: -caption[0])[: self.width]
        continued = self.totals[:, None] + np.where(np.arange(log_p.shape[1]) == self.end, -np.inf, log_p)
        chosen = np.argsort(-continued.ravel(), kind="stable")[: self.width]
        beams, tokens = chosen // log_p.shape[1], chosen % log_p.shape[1]
        self.totals = continued.ravel()[chosen]
        self.tokens = [[*self.tokens[beam], int(token)] for beam, token in zip(beams, tokens)]
        # Upper bound of a continuation: no further loss, and the greatest length.
        if len(self.finished) == self.width and self.totals.max() / self._most < self.finished[-1][0]:
            self.done = True
        return beams, tokens
