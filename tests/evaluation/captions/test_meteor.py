"""METEOR: alignments against a search over all of them, and the score against its definition."""

import shutil
from itertools import product

import numpy as np
import pytest

from vilg.evaluation.captions.meteor import Counts, count, meteor
from vilg.evaluation.captions.scores import score_captions


def best_alignment(prediction, reference):
    """(most matches, fewest chunks) of all alignments."""
    best = (0, 0)
    choices = [[None, *(place for place, word in enumerate(reference) if word == token)] for token in prediction]
    for places in product(*choices):
        used = [place for place in places if place is not None]
        if len(used) != len(set(used)):
            continue
        chunks, last = 0, None
        for place in places:
            chunks += place is not None and (last is None or place != last + 1)
            last = place
        best = min(best, (-len(used), chunks))
    return -best[0], best[1]


def test_the_alignment_has_the_most_matches_in_the_fewest_chunks():
    rng = np.random.default_rng(0)
    for _ in range(300):
        prediction, reference = ("".join(rng.choice(list("甲乙丙丁"), rng.integers(1, 7))) for _ in range(2))
        found = count(prediction, reference)
        expected = best_alignment(prediction, reference)
        if prediction == reference:
            expected = len(prediction), 0
        assert (found.matches, found.chunks) == expected, (prediction, reference)


def test_the_score_of_one_pair():
    """5 of 6 and 5 of 7 tokens, in two chunks."""
    found = count("甲乙丙丁戊己", "丁戊甲乙丙庚辛")
    assert found == Counts(6, 7, 5, 2)
    precision, recall = 5 / 6, 5 / 7
    mean = precision * recall / (0.85 * precision + 0.15 * recall)
    assert found.score == pytest.approx(mean * (1 - 0.6 * (2 / 5) ** 0.2))


def test_equal_texts_have_one_and_disjoint_ones_zero():
    assert count("甲乙丙", "甲乙丙").score == 1 and count("甲", "乙").score == 0 and count("", "乙").score == 0
    assert count("甲乙丙", "甲乙丙丁").score < 1


def test_the_best_reference_counts_and_counts_are_summed():
    pairs = [("甲乙丙", ["丁", "甲乙丙"]), ("甲乙", ["甲丙丁戊"])]
    total = count("甲乙丙", "甲乙丙") + count("甲乙", "甲丙丁戊")
    assert meteor(pairs) == total.score
    mean = (count("甲乙丙", "甲乙丙").score + count("甲乙", "甲丙丁戊").score) / 2
    assert abs(meteor(pairs) - mean) > 0.01


def test_long_texts_take_little_time():
    rng = np.random.default_rng(1)
    texts = ["".join(rng.choice(list("甲乙丙丁戊己庚辛"), 300)) for _ in range(2)]
    assert count(*texts).matches > 250


def test_the_original_gives_the_same_score():
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed: pip install 'vilg[evaluate]'")
    if shutil.which("java") is None:
        pytest.skip("java is not installed")
    rng = np.random.default_rng(0)
    captions = {"equal": ("一只狗在草地上跑步", ["一只狗在草地上跑步"]), "none": ("猫", ["狗"])}
    for number in range(40):
        texts = ["".join(rng.choice(list("一个人在街上骑自行车和狗"), rng.integers(5, 15))) for _ in range(4)]
        captions[str(number)] = texts[0], texts[1:]
    ours, original = (score_captions(captions, java_meteor=java)["METEOR"] for java in (False, True))
    assert abs(ours - original) < 0.1
