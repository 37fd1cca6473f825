"""Which pictures are held out. Everything depends on hashes of code points, so that it is the same everywhere.

`heldout-emoji` has emoji of which the training data have no picture. `heldout-combination` has pictures of emoji that
the training data show in other styles only: what a model that has understood both words of "立体风格的红苹果" can draw.
No held-out picture is equal to the eye to one of the training data.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from vilg.data.styles.catalogue import BY_NAME

TRAIN, COMBINATION, EMOJI = "train", "heldout-combination", "heldout-emoji"
PARTS = (TRAIN, COMBINATION, EMOJI)
_EMOJI_PERCENT = 3  # of the emoji are held out in all styles
_COMBINATION_PERCENT = 20  # of the others with at least _STYLES drawings are held out in one style
_STYLES = 5

Picture = tuple[str, str]  # (code points, name of the style)


def split(pictures: Iterable[Picture], equal: Iterable[tuple[Picture, Picture]]) -> dict[Picture, str]:
    """{picture: part}. equal: all pairs of pictures that are equal to the eye."""
    styles_of, twins = defaultdict(list), defaultdict(set)
    for code_points, style in pictures:
        styles_of[code_points].append(style)
    for one, other in equal:
        twins[one].add(other)
        twins[other].add(one)
    group = _groups(styles_of, twins)
    parts: dict[Picture, str] = {}
    for code_points, styles in styles_of.items():
        held_out = _percentile("emoji", group[code_points]) < _EMOJI_PERCENT
        parts |= {(code_points, style): EMOJI if held_out else TRAIN for style in styles}
        if held_out or len(styles) < _STYLES or _percentile("combination", code_points) >= _COMBINATION_PERCENT:
            continue
        unique = [style for style in styles if not twins[code_points, style]]
        if unique:
            parts[code_points, min(unique, key=lambda style: _hash("style", f"{code_points} {style}"))] = COMBINATION
    return parts


def has_sibling_in_training(picture: Picture, parts: dict[Picture, str]) -> bool:
    """Whether the training data have the same drawing with other colours."""
    code_points, own = picture
    return any(
        parts.get((code_points, style.name)) == TRAIN
        for style in BY_NAME.values()
        if style.name != own and style.family == BY_NAME[own].family
    )


def mixed(picture: Picture) -> int:
    """A key for sorting pictures so that any part of them has all styles."""
    return _hash("order", " ".join(picture))


def _groups(styles_of: dict[str, list[str]], twins: dict[Picture, set[Picture]]) -> dict[str, str]:
    """{code points: smallest code points of all emoji that are connected with it by equal pictures}."""
    group: dict[str, str] = {}
    for start in sorted(styles_of):
        pending = [] if start in group else [start]
        while pending:
            code_points = pending.pop()
            if code_points not in group:
                group[code_points] = start
                pending += [other for style in styles_of[code_points] for other, _ in twins[code_points, style]]
    return group


def _hash(purpose: str, text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose} {text}".encode()).digest()[:8], "big")


def _percentile(purpose: str, text: str) -> int:
    return _hash(purpose, text) % 100
