"""BERT's WordPiece: text to tokens with the `tokenizers` library, splitting where PaddleNLP splits, and tokens to text."""

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, Sequence, Split

UNKNOWN = "[UNK]"

# BERT makes punctuation a word of its own; PaddleNLP does so with symbols too (currency, arithmetic, emoji) and with
# these few characters.
_SYMBOLS = Regex(r"[\p{S}\x{AD}\x{B2}\x{BA}\x{3007}\x{B5}\x{D8}\x{14B}\x{1B1}]")


def wordpiece(entries: dict[str, int]) -> Tokenizer:
    """A tokenizer over {entry: id}. Special tokens have no meaning in text: "[SEP]" in a caption is three words."""
    tokenizer = Tokenizer(WordPiece(entries, unk_token=UNKNOWN, max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = Sequence([BertPreTokenizer(), Split(_SYMBOLS, "isolated")])
    return tokenizer


def join_tokens(pieces: list[str]) -> str:
    """Pieces -> text: `##` joins, Latin words and numbers get spaces between them, Chinese and punctuation none."""
    text = ""
    for piece in pieces:
        if piece.startswith("##"):
            text += piece[2:]
        elif text and _is_latin(text[-1]) and _is_latin(piece[0]):
            text += " " + piece
        else:
            text += piece
    return text


def _is_latin(character: str) -> bool:
    return character.isalnum() and ord(character) < 0x2E80  # where the CJK blocks begin
