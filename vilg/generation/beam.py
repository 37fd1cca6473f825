"""Image to text by beam search: the likeliest captions, not the likeliest word at each place."""

import numpy as np

from vilg.generation.captioning import Writer
from vilg.generation.reader import Reader
from vilg.generation.sampling import log_probabilities
from vilg.text.tokenizer import TextTokenizer

Found = list[tuple[float, list[int]]]


def beam_search(reader: Reader, codes: np.ndarray, tokenizer: TextTokenizer, width: int, penalty: float = 1.0,
                prefix: list[int] = ()) -> list[Found]:
    """Codes int64 [B, n] -> for each image up to `width` (score, word ids), the best first, that begin with `prefix`.

    The score is log p(words, EOT | image) / (words + 1)^penalty: 0 prefers short captions, 1 compares means. A caption
    is considered wherever a beam might end. [UNK] is never written. With a width of all captions there are this is an
    exhaustive search.
    """
    return [_search(reader, image, tokenizer, width, penalty, list(prefix)) for image in codes]


def _search(reader: Reader, image: np.ndarray, tokenizer: TextTokenizer, width: int, penalty: float,
            prefix: list[int]) -> Found:
    writer = Writer(reader, image[None], tokenizer, prefix, width)
    words, finished = [prefix] * width, []
    totals = np.full(width, -np.inf)
    totals[0] = writer.given  # at first all beams are one
    longest = (len(prefix) + writer.left + 1) ** max(0.0, penalty)
    while True:
        log_p = log_probabilities(writer.logits())
        ended = (totals + log_p[:, tokenizer.end]) / (len(words[0]) + 1) ** penalty
        finished += [(float(score), words[beam]) for beam, score in enumerate(ended) if score > -np.inf]
        finished = sorted(finished, key=lambda one: -one[0])[:width]
        log_p[:, tokenizer.end] = -np.inf
        going_on = (totals[:, None] + log_p).ravel()
        chosen = np.argsort(-going_on, kind="stable")[:width]
        beams, last, totals = chosen // log_p.shape[1], chosen % log_p.shape[1], going_on[chosen]
        # What goes on costs nothing from here on at best, and is as long as may be.
        if not writer.left or len(finished) == width and totals.max() / longest < finished[-1][0]:
            return finished
        words = [[*words[beam], int(word)] for beam, word in zip(beams, last)]
        writer.write(last, beams)
