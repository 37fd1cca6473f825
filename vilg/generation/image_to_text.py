"""Image to text: one word after the other, each from what the layers keep of those before."""

import numpy as np

from vilg.attention.patterns import IMAGE_TO_TEXT
from vilg.errors import UserError
from vilg.generation.decoding_model import DecodingModel
from vilg.generation.sampling import Sampling, log_probabilities
from vilg.text.sequence import max_caption_tokens
from vilg.text.tokenizer import TextTokenizer


class CaptionDecoder:
    """Writes behind BOT and `prefix`, word ids, in `samples` continuations of each image; codes int64 [P, n].

    `left` is how many words there is room for, `given` float64 [P] log p of the prefix behind each image, in nats.
    UserError if the prefix itself is too long.
    """

    def __init__(
        self, model: DecodingModel, codes: np.ndarray, tokenizer: TextTokenizer, prefix: list[int], samples: int = 1
    ):
        self.left = max_caption_tokens(model.text_length) - len(prefix)
        if self.left < 0:
            raise UserError(f"--prefix: {len(prefix)} tokens, the model has room for {self.left + len(prefix)}")
        self._unknown, self._rows = tokenizer.unk_id, len(codes) * samples
        self._state = model.prefill(IMAGE_TO_TEXT, codes, samples)
        self._last, self.given = np.full(self._rows, tokenizer.cls_id), np.zeros(len(codes))
        for word in prefix:
            logits = self._state.step(self._last)[::samples]  # here [UNK] is as good a word as others
            self.given += log_probabilities(logits)[:, word]
            self._last = np.full(self._rows, word)

    def logits(self) -> np.ndarray:
        """float32 [P samples, vocabulary] of the next word, asked for once; "a word I do not know" is no word to
        write."""
        logits = self._state.step(self._last)
        logits[:, self._unknown] = -np.inf
        return logits

    def write(self, words: np.ndarray, of: np.ndarray | None = None) -> None:
        """Go on with these words [P samples], behind continuations `of` (as they stand)."""
        if of is not None:
            self._state.reorder(of)
        self._last, self.left = words, self.left - 1


def caption(
    model: DecodingModel, codes: np.ndarray, tokenizer: TextTokenizer, sampling: Sampling, prefix: list[int] = ()
) -> list[str]:
    """Codes int64 [B, n] -> captions of at most T-3 tokens that begin with `prefix`."""
    writer = CaptionDecoder(model, codes, tokenizer, list(prefix))
    choose = sampling.start(len(codes), 1)
    words: list[list[int]] = [[*prefix] for _ in codes]
    open_rows = set(range(len(codes)))
    while open_rows and writer.left:
        chosen = choose(writer.logits())
        open_rows -= {row for row in open_rows if chosen[row] == tokenizer.sep_id}
        for row in open_rows:
            words[row].append(int(chosen[row]))
        writer.write(chosen)
    return [tokenizer.decode(row) for row in words]
