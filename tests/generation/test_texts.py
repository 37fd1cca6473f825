"""One rule for texts that are empty, too long or unknown."""

import pytest

from vilg.errors import UserError
from vilg.generation.texts import check_texts, encode_prefix, unknown_parts
from vilg.text.tokenizer import WordPiece
from vilg.text.vocabulary import train_vocabulary


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    train_vocabulary(["红苹果", "蓝色的鱼", "3D打印机"], 100, file)
    return WordPiece(file)


def test_known_texts_give_no_warning(tokenizer):
    assert check_texts(["红苹果", "蓝色的鱼"], tokenizer, 8) == []


@pytest.mark.parametrize("text", ["", " ", "\u200b", "\u200b\u2060", "\n\t"])
def test_texts_without_tokens_are_refused(tokenizer, text):
    with pytest.raises(UserError, match="the text is empty"):
        check_texts(["红", text], tokenizer, 8)


@pytest.mark.parametrize(
    "text, parts, nothing",
    [
        ("红🙂", ["🙂"], False),
        ("🙂🙂", ["🙂"], True),
        ("hello red 苹果", ["hello", "red"], False),
        ("龘", ["龘"], True),
    ],
)
def test_unknown_parts_are_named(tokenizer, text, parts, nothing):
    assert unknown_parts(text, tokenizer) == parts
    (warning,) = check_texts([text], tokenizer, 8)
    assert f"the vocabulary lacks {', '.join(parts)}" in warning
    assert ("the model knows nothing of this text" in warning) == nothing


def test_long_texts_are_refused_or_truncated(tokenizer):
    message = "红苹果红苹果: the text is too long: 6 tokens, the model reads 5 tokens"
    with pytest.raises(UserError, match=message):
        check_texts(["红", "红苹果红苹果"], tokenizer, 8)
    assert check_texts(["红", "红苹果红苹果"], tokenizer, 8, truncate=True) == [f"{message}; the rest is ignored"]
    with pytest.raises(UserError) as error:
        check_texts(["红" * 1000], tokenizer, 8)
    assert len(str(error.value)) < 120


@pytest.mark.parametrize("texts", ["红", []])
def test_a_list_is_expected(tokenizer, texts):
    with pytest.raises(UserError, match="a list of at least one text"):
        check_texts(texts, tokenizer, 8)


def test_prefixes(tokenizer):
    assert encode_prefix("", tokenizer) == [] and len(encode_prefix("红苹", tokenizer)) == 2
    with pytest.raises(UserError, match="--prefix 红🙂: the vocabulary lacks 🙂"):
        encode_prefix("红🙂", tokenizer)
