"""Image to text: one word after the other, each from what the layers keep of those before."""

import numpy as np

from vilg.attention.patterns import IMAGE_TO_TEXT
from vilg.errors import UserError
from vilg.generation.reader import Reader
from vilg.generation.sampling import Sampling, log_probabilities
from vilg.text.sequence import longest_caption
from vilg.text.tokenizer import TextTokenizer


class Writer:
    """Writes behind BOT and `prefix`, word ids, in `samples` continuations of each image; codes int64 [P, n].

    `left` is how many words there is room for, `given` float64 [P] log p of the prefix behind each image, in nats.
    UserError if the prefix itself is too long.
    """

    def __init__(
        self, reader: Reader, codes: np.ndarray, tokenizer: TextTokenizer, prefix: list[int], samples: int = 1
    ):
        self.left = longest_caption(reader.text_length) - len(prefix)
        if self.left < 0:
            raise UserError(f"--prefix: {len(prefix)} tokens, the model has room for {self.left + len(prefix)}")
        self._unknown, self._rows = tokenizer.unknown, len(codes) * samples
        self._reading = reader.read(IMAGE_TO_TEXT, codes, samples)
        self._last, self.given = np.full(self._rows, tokenizer.begin), np.zeros(len(codes))
        for word in prefix:
            logits = self._reading.step(self._last)[::samples]  # here [UNK] is as good a word as others
            self.given += log_probabilities(logits)[:, word]
            self._last = np.full(self._rows, word)

    def logits(self) -> np.ndarray:
        """float32 [P samples, vocabulary] of the next word, asked for once; "a word I do not know" is no word to
        write."""
        logits = self._reading.step(self._last)
        logits[:, self._unknown] = -np.inf
        return logits

    def write(self, words: np.ndarray, of: np.ndarray | None = None) -> None:
        """Go on with these words [P samples], behind continuations `of` (as they stand)."""
        if of is not None:
            self._reading.reorder(of)
        self._last, self.left = words, self.left - 1


def caption(
    reader: Reader, codes: np.ndarray, tokenizer: TextTokenizer, sampling: Sampling, prefix: list[int] = ()
) -> list[str]:
    """Codes int64 [B, n] -> captions of at most T-3 tokens that begin with `prefix`."""
    writer = Writer(reader, codes, tokenizer, list(prefix))
    choose = sampling.start(len(codes), 1)
    words: list[list[int]] = [[*prefix] for _ in codes]
    open_rows = set(range(len(codes)))
    while open_rows and writer.left:
        chosen = choose(writer.logits())
        open_rows -= {row for row in open_rows if chosen[row] == tokenizer.end}
        for row in open_rows:
            words[row].append(int(chosen[row]))
        writer.write(chosen)
    return [tokenizer.decode(row) for row in words]
