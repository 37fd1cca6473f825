"""Checks texts before a model reads them: one rule for the command line, the predictor and the server."""

import re
from collections.abc import Sequence

from vilg.errors import UserError
from vilg.text.sequence import encode_caption, max_caption_tokens
from vilg.text.tokenizer import TextTokenizer

_SHOWN = 40  # characters of a text in a message
_PARTS = re.compile(r"[!-~]+|\S")  # a run of ASCII, or one other character


def check_texts(texts: Sequence[str], tokenizer: TextTokenizer, length: int, truncate: bool = False) -> list[str]:
    """Check captions for a model with `length` text positions. Returns a warning for each text with unknown parts.

    Raises UserError for a text without tokens, and, unless `truncate` is set, for one with more tokens than the model
    reads; with `truncate` that is a warning too.
    """
    if isinstance(texts, str) or not len(texts):
        raise UserError("a list of at least one text expected")
    warnings = []
    for text in texts:
        tokens = encode_caption(text, tokenizer)
        if not tokens:
            raise UserError("the text is empty" + (f": {text!a} has no visible characters" if text else ""))
        if (most := max_caption_tokens(length)) < len(tokens):
            too_long = f"{shortened(text)}: the text is too long: {len(tokens)} tokens, the model reads {most} tokens"
            if not truncate:
                raise UserError(too_long)
            warnings.append(f"{too_long}; the rest is ignored")
        if tokenizer.unk_id in tokens:
            unknown = "the vocabulary lacks " + ", ".join(unknown_parts(text, tokenizer))
            only = "; the model knows nothing of this text" if set(tokens) == {tokenizer.unk_id} else ""
            warnings.append(f"{shortened(text)}: {unknown}{only}")
    return warnings


def encode_prefix(prefix: str, tokenizer: TextTokenizer) -> list[int]:
    """The token ids of the beginning of a caption. Raises UserError if the vocabulary lacks a part of it."""
    tokens = encode_caption(prefix, tokenizer)
    if tokenizer.unk_id in tokens:
        raise UserError(
            f"--prefix {shortened(prefix)}: the vocabulary lacks {', '.join(unknown_parts(prefix, tokenizer))}"
        )
    return tokens


def unknown_parts(text: str, tokenizer: TextTokenizer) -> list[str]:
    """The parts of a text, each once, that become [UNK]."""
    parts = dict.fromkeys(_PARTS.findall(text))
    return [part for part in parts if tokenizer.unk_id in encode_caption(part, tokenizer)] or [shortened(text)]


def shortened(text: str) -> str:
    """The text in one line for a message."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[:_SHOWN] + ".."
