"""Caption metrics: known values, the paper's table 3, and properties that a metric must have."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vilg.cli import main
from vilg.errors import UserError
from vilg.evaluation.captions.files import match, read_captions
from vilg.evaluation.captions.scores import score_captions

pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed: pip install 'vilg[evaluate]'")

# References and predictions of COCO-CN's test split; not part of the repository.
COCO_CN = Path(__file__).parents[4] / "shared" / "evaluation" / "coco_cn"
NAMES = "BLEU_1", "BLEU_2", "BLEU_3", "BLEU_4", "METEOR", "ROUGE_L", "CIDEr"


@pytest.mark.parametrize("meteor", ["exact", "java"])
@pytest.mark.parametrize("tokens, others", [("character", (48.4, 59.2, 128.4)), ("word", (36.7, 55.0, 98.4))])
def test_the_papers_table_3(tokens, others, meteor, capsys):
    """The paper's row "seq-learn", by characters."""
    if not COCO_CN.exists():
        pytest.skip("shared/evaluation/coco_cn is not there")
    if meteor == "java" and shutil.which("java") is None:
        pytest.skip("java is not installed")
    files = ["--references", COCO_CN / "references.json", "--predictions", COCO_CN / "predictions_seq_learn.json"]
    assert main(["evaluate", "caption", *map(str, files), "--tokens", tokens, "--meteor", meteor, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found.pop("images"), found.pop("references")) == (1000, 6033)
    assert tuple(found) == NAMES
    assert tuple(round(found[name], 1) for name in ("BLEU_4", "ROUGE_L", "CIDEr")) == others
    assert round(found["METEOR"], 1) == 29.5


def scores(predictions, references, **options):
    captions = {str(n): (one, others) for n, (one, others) in enumerate(zip(predictions, references))}
    return score_captions(captions, **options)


def test_equal_captions_have_the_highest_score():
    texts = ["一只狗在草地上跑步", "两个孩子坐在长椅上看书", "桌子上有一个红色的苹果"]
    found = scores(texts, [[text] for text in texts])
    assert all(found[name] == pytest.approx(100) for name in NAMES[:6]) and found["CIDEr"] == pytest.approx(1000)


def test_captions_without_a_common_character_have_zero():
    found = scores(["甲乙丙丁戊", "子丑寅卯辰"], [["一二三四五"], ["六七八九十"]])
    assert all(value < 1e-6 for value in found.values())


def test_the_order_of_images_and_references_does_not_matter():
    predictions = ["一只狗在跑步", "两个孩子看书", "红色的苹果"]
    references = [["一只狗跑步", "狗在草地上"], ["孩子在看书", "两个人"], ["苹果", "一个红苹果"]]
    found = scores(predictions, references)
    turned = scores(predictions[::-1], [texts[::-1] for texts in references[::-1]])
    assert all(np.isclose(found[name], turned[name]) for name in NAMES)


def test_an_empty_prediction_lowers_the_scores():
    references = [["一只狗在草地上跑步"], ["两个孩子坐在长椅上看书"]]
    full, part = scores([texts[0] for texts in references], references), scores(["一只狗在草地上跑步", ""], references)
    assert all(0 < part[name] < full[name] for name in NAMES)


@pytest.mark.parametrize(
    "normalize, equal",
    [([], False), (["width"], False), (["width", "punctuation"], False), (["width", "punctuation", "lowercase"], True)],
)
def test_normalization(normalize, equal):
    found = scores(["两件T恤，很好！"], [["两件ｔ恤,很好"]], normalizations=normalize)
    assert (found["BLEU_1"] > 99.9) == equal


def test_references_without_tokens_are_left_out_but_one_is_needed():
    assert scores(["狗"], [["  ", "狗"]])["BLEU_1"] == pytest.approx(100)
    with pytest.raises(UserError, match="image 0: no reference has a token"):
        scores(["狗"], [["  "]])


def test_jieba_splits_into_words():
    pytest.importorskip("jieba")
    found = scores(["红色的苹果"], [["红色 的 苹果"]], kind="jieba")
    assert found["BLEU_1"] == pytest.approx(100)


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), "utf-8")
    return path


def entry(image, caption):
    return {"image_id": image, "caption": caption}


def test_files(tmp_path):
    rows = [entry(1, "狗"), entry("x", ["猫", "一只猫"]), entry(1, "一只狗")]
    assert read_captions(write(tmp_path / "r.json", rows)) == {"1": ["狗", "一只狗"], "x": ["猫", "一只猫"]}


@pytest.mark.parametrize(
    "content, expected",
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([], "a list of"),
        ({"annotations": []}, "a list of"),
        ([entry(1, "狗"), {"image_id": 2, "question": "?"}], "entry 2 is not"),
        ([entry(1, ["狗", 3])], "entry 1 is not"),
        ([entry(1, [])], "entry 1 is not"),
        ([entry(None, "狗")], "entry 1 is not"),
        ([entry(True, 1)], "entry 1 is not"),
        (["狗"], "entry 1 is not"),
    ],
)
def test_files_of_another_kind(content, expected, tmp_path):
    with pytest.raises(UserError, match=expected):
        read_captions(write(tmp_path / "r.json", content))


@pytest.mark.parametrize(
    "predictions, expected",
    [
        ([entry(1, "狗"), entry(1, "狗")], "p.json: image 1 has 2 captions; one expected"),
        ([entry(1, "狗")], "p.json: lacks 1 of 2 images, for example 2"),
        ([entry(1, "狗"), entry(2, "猫"), entry(3, "鸟")], "r.json: lacks 1 of 3 images, for example 3"),
    ],
)
def test_files_that_do_not_match(predictions, expected, tmp_path, capsys):
    references = write(tmp_path / "r.json", [entry(1, "狗"), entry(2, "猫"), entry(2, "小猫")])
    predicted = write(tmp_path / "p.json", predictions)
    with pytest.raises(UserError, match=expected):
        match(read_captions(references), read_captions(predicted), (references, predicted))
    assert main(["evaluate", "caption", "--references", str(references), "--predictions", str(predicted)]) == 1
    assert expected in capsys.readouterr().err


def test_a_table_without_json(tmp_path, capsys):
    file = write(tmp_path / "r.json", [entry(1, "一只狗在跑步"), entry(2, "一只猫")])
    assert main(["evaluate", "caption", "--references", str(file), "--predictions", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["BLEU_1", "100.0"] and lines[-1].split() == ["references", "2"]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap.bleu.bleu", None)
    with pytest.raises(UserError, match=r"pip install 'vilg\[evaluate\]'"):
        scores(["狗"], [["狗"]])
