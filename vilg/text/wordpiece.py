"""BERT's WordPiece through `tokenizers`, cutting words exactly where PaddleNLP cuts them."""

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
