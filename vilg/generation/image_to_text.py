"""Image to text: captions are generated token by token with cached keys and values."""

from collections.abc import Sequence

import numpy as np

from vilg.attention.patterns import IMAGE_TO_TEXT
from vilg.errors import UserError
from vilg.generation.decoding_model import DecodingModel
from vilg.generation.sampling import Sampling, log_probabilities
from vilg.text.sequence import max_caption_tokens
from vilg.text.tokenizer import TextTokenizer


class CaptionDecoder:
    """Generates tokens after BOT and `prefix` (token ids), in `samples` continuations of each image; codes int64 [P,
    n].

    left: number of tokens that still fit. given: float64 [P], log p of the prefix for each image in nats. Raises
    UserError if the prefix is too long.
    """

    def __init__(
        self, model: DecodingModel, codes: np.ndarray, tokenizer: TextTokenizer, prefix: list[int], samples: int = 1
    ):
        self.left = max_caption_tokens(model.text_length) - len(prefix)
        if self.left < 0:
            raise UserError(f"--prefix: {len(prefix)} tokens, but captions have at most {self.left + len(prefix)}")
        self._unknown, self._rows = tokenizer.unk_id, len(codes) * samples
        self._state = model.prefill(IMAGE_TO_TEXT, codes, samples)
        self._last, self.given = np.full(self._rows, tokenizer.cls_id), np.zeros(len(codes))
        for token in prefix:
            logits = self._state.step(self._last)[::samples]  # in a prefix, [UNK] is an ordinary token
            self.given += log_probabilities(logits)[:, token]
            self._last = np.full(self._rows, token)

    def logits(self) -> np.ndarray:
        """Logits of the next token, float32 [P samples, vocab_size]. Call it once per token. [UNK] is excluded."""
        logits = self._state.step(self._last)
        logits[:, self._unknown] = -np.inf
        return logits

    def append(self, tokens: np.ndarray, of: np.ndarray | None = None) -> None:
        """Append these tokens [P samples], to continuations `of` if given."""
        if of is not None:
            self._state.reorder(of)
        self._last, self.left = tokens, self.left - 1


def caption(
    model: DecodingModel, codes: np.ndarray, tokenizer: TextTokenizer, sampling: Sampling, prefix: Sequence[int] = ()
) -> list[str]:
    """Generate captions of at most T-3 tokens, beginning with `prefix`, for codes int64 [B, n]."""
    decoder = CaptionDecoder(model, codes, tokenizer, list(prefix))
    choose = sampling.start(len(codes), 1)
    tokens: list[list[int]] = [[*prefix] for _ in codes]
    open_rows = set(range(len(codes)))
    while open_rows and decoder.left:
        chosen = choose(decoder.logits())
        open_rows -= {row for row in open_rows if chosen[row] == tokenizer.sep_id}
        for row in open_rows:
            tokens[row].append(int(chosen[row]))
        decoder.append(chosen)
    return [tokenizer.decode(row) for row in tokens]
