"""The default text tokenizer, with valid and invalid vocabularies."""

import subprocess
import sys

import pytest

from vilg import config
from vilg.errors import UserError
from vilg.text.tokenizer import WordPiece, load_tokenizer
from vilg.text.vocabulary import SPECIAL_TOKENS, train_vocabulary
from vilg.text.wordpiece import join_tokens


@pytest.fixture
def vocab(tmp_path):
    file = tmp_path / "vocab.txt"
    train_vocabulary(["红苹果", "3D打印机", "OK按钮，hello world"], 200, file)
    return file


def test_round_trip(vocab):
    tokenizer = WordPiece(vocab)
    assert tokenizer.decode(tokenizer.encode("红苹果，hello")) == "红苹果，hello"
    assert tokenizer.decode([tokenizer.cls_id, *tokenizer.encode("打印"), tokenizer.sep_id]) == "打印"


def test_the_vocabulary_starts_like_that_of_bert_and_ids_are_line_numbers(vocab):
    lines = vocab.read_text("utf-8").splitlines()
    assert lines[:5] == SPECIAL_TOKENS
    tokenizer = WordPiece(vocab)
    assert tokenizer.vocab_size == len(lines)
    assert tokenizer.encode("红") == [lines.index("红")]
    assert (tokenizer.cls_id, tokenizer.sep_id) == (lines.index("[CLS]"), lines.index("[SEP]"))


def test_more_than_a_thousand_characters_are_kept(tmp_path):
    train_vocabulary([chr(0x4E00 + n) for n in range(3000)], 4000, tmp_path / "vocab.txt")
    tokenizer = WordPiece(tmp_path / "vocab.txt")
    unk_id = tokenizer.encode("\U00020000")
    assert all(tokenizer.encode(chr(0x4E00 + n)) != unk_id for n in range(3000))


def test_rare_characters_are_unknown(tmp_path):
    """Counts over all captions: 红 three times, 果 twice, the others once, Latin letters without case."""
    file = tmp_path / "vocab.txt"
    train_vocabulary(["红苹果", "红旗 Ok", "红果 oK"], 200, file, min_count=2)
    tokenizer = WordPiece(file)
    assert tokenizer.decode(tokenizer.encode("红苹果旗")) == "红[UNK]果[UNK]"
    assert tokenizer.decode(tokenizer.encode("ok")) == "ok"
    assert set(file.read_text("utf-8").split()) >= {"红", "果", "ok"}
    with pytest.raises(UserError, match="--min-count 0: must be positive"):
        train_vocabulary(["红"], 200, file, min_count=0)


def test_equal_captions_give_the_same_vocabulary(tmp_path):
    """Each run in a new process: the hash maps of `tokenizers` have a random order."""
    program = (
        "import sys, pathlib; from vilg.text.vocabulary import train_vocabulary; words = 'abcdefghijklmnop';"
        "captions = [f'{a}{b}{c}' for a in words for b in words for c in words];"
        "train_vocabulary(captions, 300, pathlib.Path(sys.argv[1]))"
    )
    files = [tmp_path / f"{number}.txt" for number in range(4)]
    for file in files:
        subprocess.run([sys.executable, "-c", program, file], check=True)
    assert len({file.read_text() for file in files}) == 1 and len(files[0].read_text().split()) == 300


@pytest.mark.parametrize("size", [6, 7, 8, 12, 20])
def test_a_vocabulary_has_at_most_the_requested_size(tmp_path, size):
    """A character that continues words needs two entries. The most frequent characters come first."""
    file = tmp_path / "vocab.txt"
    assert train_vocabulary(["abc abd abe aaa"], size, file) <= size
    entries = file.read_text().split()
    assert len(entries) <= size and ("a" in entries) == (size > 6) == ("##a" in entries)


def test_each_unknown_character_is_a_token(vocab):
    tokenizer = WordPiece(vocab)
    assert tokenizer.decode(tokenizer.encode("红魑")) == "红[UNK]"


def test_decoding_joins_pieces_without_spaces_between_chinese_characters():
    assert join_tokens(["hello", "world", "##s", "红", "苹", "果", "3", "##d"]) == "hello worlds红苹果3d"


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "no such file"),
        ("红\n苹\n", "lacks"),
        ("", "lacks"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_invalid_vocabularies(tmp_path, text, message):
    file = tmp_path / "vocab.txt"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        load_tokenizer(config.Text(vocab=str(file)))


def test_a_vocabulary_must_be_larger_than_its_special_tokens(tmp_path):
    with pytest.raises(UserError, match="--size 5"):
        train_vocabulary(["红"], 5, tmp_path / "vocab.txt")
    assert not (tmp_path / "vocab.txt").exists()


def test_special_tokens_have_no_meaning_in_text(vocab):
    tokenizer = WordPiece(vocab)
    assert not {tokenizer.cls_id, tokenizer.sep_id} & set(tokenizer.encode("红[SEP]果[CLS]"))


def test_symbols_are_tokens(vocab):
    tokenizer = WordPiece(vocab)
    assert tokenizer.encode("hello￥hello") == tokenizer.encode("hello ￥ hello")
