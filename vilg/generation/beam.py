"""Image to text by beam search: the likeliest captions, not the likeliest word at each place."""

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
    prefix: list[int] = (),
) -> list[Found]:
    """Codes int64 [B, n] -> for each image up to `width` (score, word ids), the best first, that begin with `prefix`.

    The score is log p(words, EOT | image) / (words + 1)^penalty: 0 prefers short captions, 1 compares means. [UNK] is
    never written: p is that of a model which cannot, and so a little more than what ranking.log_likelihood says. A
    caption is considered wherever a beam might end. The images are searched side by side. With a width of all captions
    there are this is an exhaustive search.
    """
    writer = CaptionDecoder(model, codes, tokenizer, list(prefix), width)
    longest = len(prefix) + writer.left + 1
    searches = [_Search(width, penalty, list(prefix), given, tokenizer.sep_id, longest) for given in writer.given]
    while True:
        log_p = log_probabilities(writer.logits()).reshape([len(codes), width, -1])
        moves = [search.advance(of_image) for search, of_image in zip(searches, log_p)]
        if not writer.left or all(search.done for search in searches):
            return [search.finished for search in searches]
        beams, words = (np.concatenate(parts) for parts in zip(*moves))
        writer.write(words, beams + np.arange(len(codes)).repeat(width) * width)


class _Search:
    """The beams of one image; `finished` are the best captions so far, `done` once no beam can do better."""

    def __init__(self, width: int, penalty: float, prefix: list[int], given: float, end: int, longest: int):
        self.width, self.penalty, self.end = width, penalty, end
        self.words = [prefix] * width
        self.totals = np.full(width, -np.inf)
        self.totals[0] = given  # at first all beams are one
        self.finished: Found = []
        self.done = False
        self._most = longest ** max(0.0, penalty)

    def advance(self, log_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log p float64 [width, vocabulary] of the next word of each beam -> of the new beams, which beam each goes on
        from and its new word."""
        ended = (self.totals + log_p[:, self.end]) / (len(self.words[0]) + 1) ** self.penalty
        self.finished += [(float(score), self.words[beam]) for beam, score in enumerate(ended) if score > -np.inf]
        self.finished = sorted(self.finished, key=lambda one: -one[0])[: self.width]
        going_on = self.totals[:, None] + np.where(np.arange(log_p.shape[1]) == self.end, -np.inf, log_p)
        chosen = np.argsort(-going_on.ravel(), kind="stable")[: self.width]
        beams, words = chosen // log_p.shape[1], chosen % log_p.shape[1]
        self.totals = going_on.ravel()[chosen]
        self.words = [[*self.words[beam], int(word)] for beam, word in zip(beams, words)]
        # What goes on costs nothing from here on at best, and is as long as may be.
        if len(self.finished) == self.width and self.totals.max() / self._most < self.finished[-1][0]:
            self.done = True
        return beams, words
