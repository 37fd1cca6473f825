"""The T text positions of a sequence: [BOT, t_1 .. t_m, EOT, pad ..], with BOI at the last position in text-to-image.

Ids from the vocabulary size on are tokens that the vocabulary lacks: `vocab_size` is BOI, and `vocab_size + 1 + p` is
the learned padding vector of text position p.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np

from vilg.errors import UserError
from vilg.text.tokenizer import TextTokenizer


def max_caption_tokens(length: int) -> int:
    """The most caption tokens that fit into `length` positions together with BOT, EOT and BOI."""
    return length - 3


def boi_id(size: int) -> int:
    """The id of BOI for a vocabulary of `size` entries."""
    return size


def padding(size: int, length: int) -> np.ndarray:
    """The ids of the padding at text positions 0 .. length-1."""
    return size + 1 + np.arange(length, dtype=np.int64)


def embedding_size(size: int, length: int) -> int:
    """Number of ids: the vocabulary, BOI, and one padding id for each position."""
    return size + 1 + length


def encode_caption(caption: str, tokenizer: TextTokenizer) -> list[int]:
    """All token ids of a caption. Raises UserError for lone surrogates, which undecodable bytes on a command line
    become.
    """
    try:
        caption.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{ascii(caption)[:40]}: not a text in UTF-8") from None
    return tokenizer.encode(unicodedata.normalize("NFC", caption))


class CaptionEncoder:
    """caption -> int64 [T]. Captions of more than T-3 tokens are truncated and counted in `truncated`."""

    def __init__(self, tokenizer: TextTokenizer, length: int):
        self.tokenizer, self.length = tokenizer, length
        self.truncated = 0

    def __call__(self, caption: str) -> np.ndarray:
        return self.build_inputs(encode_caption(caption, self.tokenizer))

    def build_inputs(self, ids: Sequence[int]) -> np.ndarray:
        """Token ids of a caption, any number of them -> int64 [T]."""
        longest = max_caption_tokens(self.length)
        if len(ids) > longest:
            self.truncated += 1
            ids = ids[:longest]
        text = padding(self.tokenizer.vocab_size, self.length)
        text[: len(ids) + 2] = [self.tokenizer.cls_id, *ids, self.tokenizer.sep_id]
        return text
