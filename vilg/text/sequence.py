"""The T text positions of a sequence: [BOT, t_1 .. t_m, EOT, pad ..], with BOI on the last one when drawing.

Ids behind the vocabulary stand for what has no entry in it: `size` is BOI, and `size + 1 + p` is the learned padding
vector of text position p.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np

from vilg.errors import UserError
from vilg.text.tokenizer import TextTokenizer


def max_caption_tokens(length: int) -> int:
    """The tokens of the longest caption that fits into `length` positions beside BOT, EOT and BOI."""
    return length - 3


def boi_id(size: int) -> int:
    """The id of BOI for a vocabulary of `size` entries."""
    return size


def padding(size: int, length: int) -> np.ndarray:
    """The ids of the padding at text positions 0 .. length-1."""
    return size + 1 + np.arange(length, dtype=np.int64)


def embedding_size(size: int, length: int) -> int:
    """How many ids there are: the vocabulary, BOI and one padding a position."""
    return size + 1 + length


def encode_caption(caption: str, tokenizer: TextTokenizer) -> list[int]:
    """The ids of the words of a caption, all of them. UserError if a lone surrogate stands in it, which is what bytes
    of another encoding become on a command line."""
    try:
        caption.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{ascii(caption)[:40]}: not a text in UTF-8") from None
    return tokenizer.encode(unicodedata.normalize("NFC", caption))


class CaptionEncoder:
    """caption -> int64 [T]. A caption of more than T-3 tokens is cut; `cut` counts how often that happened."""

    def __init__(self, tokenizer: TextTokenizer, length: int):
        self.tokenizer, self.length = tokenizer, length
        self.cut = 0

    def __call__(self, caption: str) -> np.ndarray:
        return self.place(encode_caption(caption, self.tokenizer))

    def place(self, ids: Sequence[int]) -> np.ndarray:
        """The ids of a caption's words, any number of them -> int64 [T]."""
        longest = max_caption_tokens(self.length)
        if len(ids) > longest:
            self.cut += 1
            ids = ids[:longest]
        text = padding(self.tokenizer.vocab_size, self.length)
        text[: len(ids) + 2] = [self.tokenizer.cls_id, *ids, self.tokenizer.sep_id]
        return text
