"""The measures with models whose result is known: perfect ones, blind ones, and those that confuse something."""

import re

import numpy as np
import pytest

from vilg.data.images import to_uint8, to_unit
from vilg.data.styles.captions import parse, prompt
from vilg.data.styles.catalogue import STYLES
from vilg.evaluation.perceptual_features import PerceptualFeatures
from vilg.evaluation.styles.gallery import Gallery
from vilg.evaluation.styles.measures import CEILING, SHUFFLED, Model, measure, table
from vilg.evaluation.styles.page import write_page
from vilg.evaluation.styles.pictures import NEW, TRAINING, StylePicture

NAMES = ["红苹果", "蝴蝶", "足球", "火箭"]


def drawing(name, style):
    """A picture that depends on both."""
    rng = np.random.default_rng([NAMES.index(name), STYLES.index(style)])
    return rng.integers(0, 256, [4, 4, 3], np.uint8).repeat(4, 0).repeat(4, 1)


@pytest.fixture(scope="module")
def pictures():
    return [
        StylePicture(name, (name, f"又名{name}"), style, drawing(name, style), None)
        for name in NAMES
        for style in STYLES
    ]


@pytest.fixture(scope="module")
def gallery(pictures, lpips_file):
    return Gallery(pictures, PerceptualFeatures(lpips_file))


def model(change=lambda name, style: (name, style), says=lambda name, style: prompt(name, style)):
    """A model that draws the real picture of `change`, and says `says` of the real picture."""
    by_pixels = {drawing(name, style).tobytes(): (name, style) for name in NAMES for style in STYLES}

    def draw(texts):
        return to_unit(np.stack([drawing(*change(*parse(text))) for text in texts]))

    def describe(images):
        return [says(*by_pixels[image.tobytes()]) for image in to_uint8(images)]

    return Model(draw, describe, lambda images: images)


def shares(measured, gallery, pictures):
    results = measure(measured, gallery, {NEW: pictures[::3], TRAINING: pictures[1::3]})
    return {name: result.shares() for name, result in results.items()}


def test_a_perfect_model(gallery, pictures):
    found = shares(model(), gallery, pictures)
    for name in (NEW, TRAINING):
        assert {value for key, value in found[name].items() if key != "pictures"} == {1.0}
    assert found[CEILING]["both"] == 1 and found[SHUFFLED]["both"] == 0
    assert found[NEW]["pictures"] == len(pictures[::3])


def test_a_model_that_ignores_the_style(gallery, pictures):
    found = shares(model(lambda name, _: (name, STYLES[0]), lambda name, _: name), gallery, pictures)[NEW]
    assert found["emoji"] == found["caption_name"] == 1
    assert found["style"] == found["both"] == found["caption_style"] < 0.3


def test_a_model_that_ignores_the_thing(gallery, pictures):
    found = shares(model(lambda _, style: (NAMES[0], style), lambda _, style: prompt("太阳", style)), gallery, pictures)
    assert found[NEW]["style"] == found[NEW]["caption_style"] == 1
    assert found[NEW]["emoji"] == found[NEW]["both"] < 0.5 and found[NEW]["caption_name"] == 0


def test_another_name_of_the_emoji_is_right(gallery, pictures):
    found = shares(model(says=lambda name, style: prompt(f"又名{name}", style)), gallery, pictures)
    assert found[NEW]["caption_both"] == 1


def test_a_picture_counts_as_all_that_are_equal_to_the_eye(lpips_file, pictures):
    twin = StylePicture("双胞胎", ("双胞胎",), STYLES[0], pictures[0].pixels ^ 1, None)
    gallery = Gallery([*pictures, twin], PerceptualFeatures(lpips_file))
    judged = gallery.judge(to_unit(np.stack([pictures[0].pixels, twin.pixels])), [twin, pictures[0]])
    assert judged.both.all() and judged.emoji.all()
    assert not gallery.judge(to_unit(pictures[1].pixels[None]), [twin]).emoji.any()


def test_the_nearest_picture_is_found_under_noise(gallery, pictures):
    noisy = to_unit(np.stack([picture.pixels for picture in pictures]))
    noisy = noisy + np.random.default_rng(0).normal(0, 0.02, noisy.shape).astype(np.float32)
    assert np.array_equal(gallery.nearest(noisy), np.arange(len(pictures)))


def test_the_table(gallery, pictures):
    lines = table(measure(model(), gallery, {NEW: pictures[::3]})).splitlines()
    assert lines[2].split() == [*NEW.split(), "15", *["100%"] * 6]
    assert all(len(line) < 120 for line in lines)


def test_the_page(gallery, pictures, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    line = '{"step": %d, "loss_t2i": 2.5, "loss_i2t": 1.5, "heldout_nll_t2i": 3.0, "heldout_nll_i2t": 4.0}\n'
    (run / "metrics.jsonl").write_text("".join(line % step for step in range(1, 40)) + '{"step": 40, "los')
    measured = model(lambda name, _: (name, STYLES[0]))
    results = measure(measured, gallery, {NEW: pictures[1::3]})
    write_page(tmp_path / "page.html", "<run>", measured, pictures, results, run)
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "&lt;run&gt;" in page and "<run>" not in page and "CC BY-SA 4.0" in page
    assert page.count("class=held") == len({(p.emoji, p.style.name) for p in pictures[1::3]} & shown(page, pictures))
    assert page.count("class=wrong") > 5 and "nearest: 描边漫画风格的" in page
    assert "<svg" in page and not re.search(r"(src|href)=\"?http", page)


def shown(page, pictures):
    rows = page.split("class=matrix")[1].split("</table>")[0]
    return {(picture.emoji, picture.style.name) for picture in pictures if f">{picture.names[0]}<" in rows}
