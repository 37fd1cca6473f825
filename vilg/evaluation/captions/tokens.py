"""How captions become tokens. Scores depend on it, so two scores can be compared only if both were made alike."""

import string
import unicodedata
from collections.abc import Callable, Sequence

from vilg.errors import UserError

_PUNCTUATION = set(string.punctuation) | {chr(code) for code in range(0x3000, 0x3040)}  # also CJK brackets and marks

Split = Callable[[str], list[str]]
KINDS = ("character", "word", "jieba")

NORMALIZATIONS: dict[str, Callable[[str], str]] = {
    # full-width letters, digits and marks become ASCII, and the like (Unicode NFKC)
    "width": lambda text: unicodedata.normalize("NFKC", text),
    "lowercase": str.lower,
    "punctuation": lambda text: "".join(" " if _is_mark(character) else character for character in text),
}


def _is_mark(character: str) -> bool:
    return character in _PUNCTUATION or unicodedata.category(character).startswith("P")


def splitter(kind: str, normalizations: Sequence[str] = ()) -> Split:
    """text -> tokens. kind: "character" (each character that is not a space, as in the paper), "word" (at spaces), or
    "jieba". normalizations: names in NORMALIZATIONS, applied in that order. Raises UserError.
    """
    splits: dict[str, Split] = {"character": lambda text: [one for one in text if not one.isspace()], "word": str.split}
    split = splits.get(kind) or _jieba()
    chosen = [change for name, change in NORMALIZATIONS.items() if name in normalizations]

    def tokens(text: str) -> list[str]:
        for change in chosen:
            text = change(text)
        return split(text)

    return tokens


def _jieba() -> Split:
    try:
        import jieba
    except ImportError as error:
        raise UserError(f"--tokens jieba: pip install 'vilg[evaluate]' ({error})") from None
    jieba.setLogLevel("WARNING")
    return lambda text: [word for word in jieba.cut(text) if not word.isspace()]
