"""Text to WordPiece ids and back."""

from pathlib import Path
from typing import Protocol

from vilg import config
from vilg.errors import UserError, os_reason
from vilg.text.vocabulary import hash_entries
from vilg.text.wordpiece import join_tokens, wordpiece


class TextTokenizer(Protocol):
    """The interface of text tokenizers."""

    vocab_size: int  # entries of the vocabulary
    cls_id: int  # [CLS], used as BOT
    sep_id: int  # [SEP], used as EOT
    unk_id: int  # [UNK], which is never generated

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without BOT and EOT."""

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`. Special tokens are left out."""

    def entries(self) -> dict[str, int]:
        """The vocabulary, {entry: id}."""

    def fingerprint(self) -> str:
        """A hash of the vocabulary."""


class WordPiece:
    """A vocab.txt in BERT format, read with the `tokenizers` library."""

    def __init__(self, vocab: Path):
        self._entries = read_entries(vocab)
        self._tokenizer = wordpiece(self._entries)
        self.vocab_size = max(self._entries.values()) + 1
        self.cls_id = self._entries["[CLS]"]
        self.sep_id = self._entries["[SEP]"]
        self.unk_id = self._entries["[UNK]"]

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    def entries(self) -> dict[str, int]:
        return self._entries

    def fingerprint(self) -> str:
        return hash_entries(self._entries)

    def decode(self, ids: list[int]) -> str:
        special = {"[PAD]", "[CLS]", "[SEP]", "[MASK]"}
        return join_tokens([token for token in map(self._tokenizer.id_to_token, ids) if token and token not in special])


def load_tokenizer(settings: config.Text) -> TextTokenizer:
    """The tokenizer that `text.tokenizer` and `text.vocab` select."""
    if settings.tokenizer == "wordpiece":
        return WordPiece(Path(settings.vocab))
    from vilg.text.paddlenlp import PaddleNLPTokenizer

    return PaddleNLPTokenizer(settings.tokenizer, settings.vocab)


def read_entries(vocab: Path) -> dict[str, int]:
    """{entry: id} of a vocab.txt; the id is the line number, counted from 0. Raises UserError."""
    try:
        lines = vocab.read_text("utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{vocab}: {os_reason(error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{vocab}: not a text file in UTF-8") from None
    while lines and not lines[-1]:
        lines.pop()
    # The line number is the id, so a repeated line must not shift later ids.
    entries = {line.rstrip("\r"): number for number, line in enumerate(lines)}
    missing = [token for token in ("[UNK]", "[CLS]", "[SEP]") if token not in entries]
    if missing:
        raise UserError(f"{vocab}: not a BERT vocabulary, it lacks {', '.join(missing)}")
    return entries
