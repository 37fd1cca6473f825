"""`tokenizers` and PaddleNLP give equal ids with the same vocab.txt."""

import os
from pathlib import Path

import pytest

from vilg import config
from vilg.errors import UserError
from vilg.text.tokenizer import load_tokenizer

CAPTIONS = [
    "红苹果",
    "一只猫坐在沙发上。",
    "龘靐齉爩",
    "𠮷野家",
    "㐂寿司",
    "Hello World",
    "iPhone 15 Pro Max手机壳",
    "２０２２年，北京冬奥会！",
    "（全角）：“引号”、《书名》……",
    "价格￥199.00/件",
    "😀笑脸👍🏽",
    "café naïve",
    "ＡＢＣ１２３",
    "a-b_c+d=e",
    "  空  格\t制表\n换行 ",
    "３D打印",
    "女人👩‍🚀宇航员",
    "c++ & c#",
    "百分之50%",
    "臺灣繁體字",
    "￥199",
    "€5≈$6×7",
    "カタカナとひらがな",
    "αβγ Привет",
    "№5™",
    "〇一二",
    "ﬁne Straße İstanbul",
    "x²+y²",
    "\u200b零宽\ufeff",
    "一" * 300,
    "a" * 120,
]


@pytest.fixture(scope="module")
def vocab() -> Path:
    file = Path(os.environ.get("VILG_BERT_CHINESE_VOCAB", ".cache/bert-chinese/vocab.txt"))
    if not file.is_file():
        pytest.skip(f"the BERT-Chinese vocabulary is not at {file}: `make test` fetches it")
    assert file.read_text("utf-8").count("\n") == 21128  # not splitlines: two entries are line separators themselves
    return file


def test_wordpiece_reads_the_real_vocabulary(vocab):
    tokenizer = load_tokenizer(config.Text(vocab=str(vocab)))
    assert tokenizer.vocab_size == 21128 and (tokenizer.cls_id, tokenizer.sep_id) == (101, 102)
    assert tokenizer.encode("红苹果") == [5273, 5741, 3362]


@pytest.mark.parametrize("class_name", ["BertTokenizer", "ErnieTokenizer"])
def test_both_tokenizers_give_equal_ids(vocab, class_name):
    pytest.importorskip("paddlenlp", reason="PaddleNLP is not installed: pip install 'vilg[paddlenlp]'")
    ours = load_tokenizer(config.Text(vocab=str(vocab)))
    theirs = load_tokenizer(config.Text(tokenizer=class_name, vocab=str(vocab.parent)))
    assert (ours.vocab_size, ours.cls_id, ours.sep_id) == (theirs.vocab_size, theirs.cls_id, theirs.sep_id)
    for caption in CAPTIONS:
        assert ours.encode(caption) == theirs.encode(caption), caption
        assert ours.decode(ours.encode(caption)) == theirs.decode(theirs.encode(caption)), caption


def test_unknown_classes_and_folders_are_one_line(tmp_path):
    pytest.importorskip("paddlenlp", reason="PaddleNLP is not installed: pip install 'vilg[paddlenlp]'")
    with pytest.raises(UserError, match="no such tokenizer"):
        load_tokenizer(config.Text(tokenizer="NoTokenizer", vocab=str(tmp_path)))
    with pytest.raises(UserError, match="cannot read it"):
        load_tokenizer(config.Text(tokenizer="BertTokenizer", vocab=str(tmp_path)))


def test_without_paddlenlp_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "paddlenlp", None)
    with pytest.raises(UserError, match=r"vilg\[paddlenlp\]"):
        load_tokenizer(config.Text(tokenizer="BertTokenizer", vocab="x"))
