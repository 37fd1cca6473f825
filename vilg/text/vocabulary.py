"""Trains WordPiece vocabularies in the format of BERT's `vocab.txt`."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers.trainers import WordPieceTrainer

from vilg.errors import UserError
from vilg.text.wordpiece import UNKNOWN, wordpiece

# In the order of BERT-Chinese, which readers of vocab.txt expect.
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

# Distinct characters. With the default of `tokenizers`, 1000, most Chinese characters become [UNK].
ALPHABET = 6000


def train_vocabulary(captions: Iterable[str], size: int, out: Path, min_count: int = 1) -> int:
    """Write a vocabulary of at most `size` entries, one a line. Returns the number of entries. Reads `captions` twice.
    Equal captions give the same file.

    Characters with fewer than `min_count` occurrences are left out. With 2, the share of [UNK] in the training captions
    is the Good-Turing estimate of the share of unknown characters in other text. With 1 there is no [UNK] in training,
    and the model would learn that it never occurs.
    """
    if size <= len(SPECIAL_TOKENS):
        raise UserError(f"--size {size}: must be more than the {len(SPECIAL_TOKENS)} special tokens")
    if min_count < 1:
        raise UserError(f"--min-count {min_count}: must be positive")
    counts, continuing = _count_characters(captions)
    alphabet, remaining = [], size - len(SPECIAL_TOKENS)
    for character in sorted(counts, key=lambda c: (-counts[c], c))[:ALPHABET]:
        remaining -= 2 if character in continuing else 1
        if remaining < 0 or counts[character] < min_count:
            break
        alphabet.append(character)
    suffixes = ["##" + c for c in sorted(continuing.intersection(alphabet))]
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=1,
        limit_alphabet=len(alphabet),
        # `tokenizers` would number these in the order of a hash map, which differs between runs. The numbers decide
        # between equally frequent pairs, so the vocabulary would differ too.
        initial_alphabet=alphabet,
        special_tokens=SPECIAL_TOKENS + suffixes,
        show_progress=False,
    )
    tokenizer = wordpiece({UNKNOWN: 0})
    tokenizer.train_from_iterator(captions, trainer)
    ids = tokenizer.get_vocab()
    entries = SPECIAL_TOKENS + sorted(alphabet) + suffixes
    entries += sorted(ids.keys() - entries, key=lambda entry: ids[entry])
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".part")
    temporary.write_text("".join(entry + "\n" for entry in entries), "utf-8")
    os.replace(temporary, out)
    return len(entries)


def _count_characters(captions: Iterable[str]) -> tuple[Counter[str], set[str]]:
    """Number of occurrences of each character in the words that WordPiece splits, and the characters that occur after
    the first one of a word.
    """
    cutter, counts, continuing = wordpiece({UNKNOWN: 0}), Counter[str](), set[str]()
    for caption in captions:
        for word, _ in cutter.pre_tokenizer.pre_tokenize_str(cutter.normalizer.normalize_str(caption)):
            counts.update(word)
            continuing.update(word[1:])
    return counts, continuing


def hash_entries(entries: dict[str, int]) -> str:
    """SHA-256 of a vocabulary {entry: id}."""
    return hashlib.sha256(json.dumps(sorted(entries.items()), ensure_ascii=False).encode()).hexdigest()
