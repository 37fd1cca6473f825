"""BERT's WordPiece with the `tokenizers` library. Words are split exactly where PaddleNLP splits them."""

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, Sequence, Split

UNKNOWN = "[UNK]"

# BERT splits off punctuation. PaddleNLP also splits off symbols (currency, arithmetic, emoji) and these characters.
_SYMBOLS = Regex(r"[\p{S}\x{AD}\x{B2}\x{BA}\x{3007}\x{B5}\x{D8}\x{14B}\x{1B1}]")


def wordpiece(entries: dict[str, int]) -> Tokenizer:
    """A tokenizer for {entry: id}. Special tokens have no meaning in text: "[SEP]" in a caption is split like any
    text.
    """
    tokenizer = Tokenizer(WordPiece(entries, unk_token=UNKNOWN, max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = Sequence([BertPreTokenizer(), Split(_SYMBOLS, "isolated")])
    return tokenizer


def join_tokens(pieces: list[str]) -> str:
    """Tokens to text: `##` continues a word, Latin words and numbers get spaces between them, Chinese and punctuation
    none.
    """
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
