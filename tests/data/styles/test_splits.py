"""Which pictures are held out, and what counts as the same picture."""

import numpy as np
from PIL import Image, ImageDraw

from vilg.data.styles.catalogue import STYLES
from vilg.data.styles.equal_pictures import equal_pairs, reduced
from vilg.data.styles.splits import COMBINATION, EMOJI, TRAIN, has_sibling_in_training, split

NAMES = [style.name for style in STYLES]
PICTURES = [(f"{number:x}", style) for number in range(3000) for style in NAMES[: 2 + number % 10]]


def parts_of(pictures, part):
    return [picture for picture, own in pictures.items() if own == part]


def test_shares():
    parts = split(PICTURES, [])
    emoji = {code_points for code_points, _ in parts_of(parts, EMOJI)}
    assert 60 < len(emoji) < 130  # 3% of 3,000
    assert all(parts[picture] == EMOJI for picture in PICTURES if picture[0] in emoji)
    combinations = parts_of(parts, COMBINATION)
    candidates = {f"{n:x}" for n in range(3000) if 2 + n % 10 >= 5} - emoji
    assert 0.16 < len(combinations) / len(candidates) < 0.24
    assert len({code_points for code_points, _ in combinations}) == len(combinations)
    assert {code_points for code_points, _ in combinations} <= candidates
    assert {style for _, style in combinations} == set(NAMES)


def test_the_split_of_an_emoji_does_not_depend_on_the_others():
    whole = split(PICTURES, [])
    part = split(PICTURES[::-1][:500], [])
    complete = [
        picture for picture in part if sum(other[0] == picture[0] for other in part) == 2 + int(picture[0], 16) % 10
    ]
    assert complete and all(part[picture] == whole[picture] for picture in complete)


def test_equal_pictures_are_never_on_both_sides():
    rng = np.random.default_rng(0)
    equal = [tuple(PICTURES[index] for index in rng.choice(len(PICTURES), 2, replace=False)) for _ in range(400)]
    parts = split(PICTURES, equal)
    assert parts_of(parts, COMBINATION) and parts_of(parts, EMOJI)
    for one, other in equal:
        assert (parts[one] == EMOJI) == (parts[other] == EMOJI)
        assert COMBINATION not in (parts[one], parts[other])
    without = split(PICTURES, [])
    assert any((without[one] == TRAIN) != (without[other] == TRAIN) for one, other in equal)  # the rule was needed


def test_siblings():
    parts = {("1", "fluent-emoji"): COMBINATION, ("1", "fluent-emoji-flat"): TRAIN, ("1", "noto"): TRAIN}
    assert has_sibling_in_training(("1", "fluent-emoji"), parts)
    assert not has_sibling_in_training(("1", "noto"), parts)
    parts["1", "fluent-emoji-flat"] = EMOJI
    assert not has_sibling_in_training(("1", "fluent-emoji"), parts)


def drawing(colour, left=20):
    image = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(image).ellipse([left, 20, left + 80, 100], fill=colour)
    return reduced(image)


def test_pictures_that_differ_in_colour_or_place_are_not_equal():
    images = [drawing("red"), drawing("blue"), drawing((250, 0, 0)), drawing("red", 24)]
    assert equal_pairs(images) == [(0, 2)]
    assert equal_pairs(images[:2], images[1:]) == [(0, 1), (1, 0)]
