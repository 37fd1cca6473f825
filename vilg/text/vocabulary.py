"""WordPiece vocabularies in the form of BERT's `vocab.txt`."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers.trainers import WordPieceTrainer

from vilg.errors import UserError
from vilg.text.wordpiece import UNKNOWN, wordpiece

# The order of BERT-Chinese, which readers of vocab.txt expect at the front.
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

# Distinct characters kept. The default of `tokenizers`, 1000, turns most of Chinese into [UNK].
ALPHABET = 6000


def train_vocabulary(captions: Iterable[str], size: int, out: Path, min_count: int = 1) -> int:
    """Write a vocabulary of at most `size` entries, one a line; returns how many there are.

    Characters that occur less than `min_count` times are left out. With 2, the share of [UNK] in the training captions
    is Good and Turing's estimate of what is unknown elsewhere; with 1 there is none, and a model that never met [UNK]
    thinks it impossible. `captions` is read twice.
    """
    if size <= len(SPECIAL_TOKENS):
        raise UserError(f"--size {size}: must be more than the {len(SPECIAL_TOKENS)} special tokens")
    if min_count < 1:
        raise UserError(f"--min-count {min_count}: must be positive")
    frequent = sum(count >= min_count for count in _characters(captions).values())
    alphabet = min(ALPHABET, size - len(SPECIAL_TOKENS), frequent)
    trainer = WordPieceTrainer(
        vocab_size=size, min_frequency=1, limit_alphabet=alphabet, special_tokens=SPECIAL_TOKENS, show_progress=False
    )
    tokenizer = wordpiece({UNKNOWN: 0})
    tokenizer.train_from_iterator(captions, trainer)
    entries = tokenizer.get_vocab()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".part")
    temporary.write_text("".join(entry + "\n" for entry in sorted(entries, key=entries.get)), "utf-8")
    os.replace(temporary, out)
    return len(entries)


def _characters(captions: Iterable[str]) -> Counter[str]:
    """How often each character stands in a word, words being what WordPiece is given."""
    cutter, counts = wordpiece({UNKNOWN: 0}), Counter()
    for caption in captions:
        for word, _ in cutter.pre_tokenizer.pre_tokenize_str(cutter.normalizer.normalize_str(caption)):
            counts.update(word)
    return counts


def hash_entries(entries: dict[str, int]) -> str:
    """SHA-256 of a vocabulary {entry: id}."""
    return hashlib.sha256(json.dumps(sorted(entries.items()), ensure_ascii=False).encode()).hexdigest()
