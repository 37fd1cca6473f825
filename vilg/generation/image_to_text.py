"""Image to text: captions are generated token by token with cached keys and values."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vilg.attention.patterns import IMAGE_TO_TEXT
from vilg.errors import UserError
from vilg.generation.decoding_model import DecodingModel, start_decoding
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
        self._state = start_decoding(model, IMAGE_TO_TEXT, codes, samples)
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


class Caption(NamedTuple):
    """A generated caption.

    log_likelihood: log p(tokens, EOT | image) in nats, with [UNK] excluded. tokens: their number, without EOT.
    """

    text: str
    log_likelihood: float
    tokens: int


def caption(
    model: DecodingModel, codes: np.ndarray, tokenizer: TextTokenizer, sampling: Sampling, prefix: Sequence[int] = ()
) -> list[str]:
    """Generate a caption of at most T-3 tokens, beginning with `prefix`, for each row of codes int64 [B, n]."""
    return [captions[0].text for captions in sample_captions(model, codes, tokenizer, sampling, prefix)]


def sample_captions(
    model: DecodingModel,
    codes: np.ndarray,
    tokenizer: TextTokenizer,
    sampling: Sampling,
    prefix: Sequence[int] = (),
    samples: int = 1,
) -> list[list[Caption]]:
    """Like `caption`, with `samples` captions of each image."""
    decoder = CaptionDecoder(model, codes, tokenizer, list(prefix), samples)
    choose, end = sampling.start(len(codes), samples), tokenizer.sep_id
    totals = decoder.given.repeat(samples)
    tokens: list[list[int]] = [[*prefix] for _ in totals]
    open_rows = set(range(len(totals)))
    while open_rows:
        logits = decoder.logits()
        # A caption that fills the text ends in any case, as in beam search.
        chosen = choose(logits) if decoder.left else np.full(len(totals), end)
        log_p = log_probabilities(logits)
        for row in sorted(open_rows):
            totals[row] += log_p[row, chosen[row]]
            if chosen[row] != end:
                tokens[row].append(int(chosen[row]))
        open_rows -= {row for row in open_rows if chosen[row] == end}
        if open_rows:
            decoder.append(chosen)
    captions = [Caption(tokenizer.decode(row), float(total), len(row)) for row, total in zip(tokens, totals)]
    return [captions[first : first + samples] for first in range(0, len(captions), samples)]
