"""A layout contains exactly the pairs of `patterns.visibility`, for any shape and tile size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attention.kernel import visibility_from_tiles
from vilg.attention.layout import Layout, build
from vilg.attention.patterns import DIRECTIONS, PATTERNS
from vilg.attention.tiles import build_tiles, padded_order

PAPER = (64, (32, 32), 11)


@given(
    direction=st.sampled_from(DIRECTIONS),
    pattern=st.sampled_from(PATTERNS),
    text=st.integers(1, 70),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    kernel=st.sampled_from([1, 3, 11]),
    tile=st.sampled_from([(32, 32), (64, 32), (128, 64)]),
)
@settings(max_examples=60, deadline=None)
def test_tiles_match_the_visibility(direction, pattern, text, height, width, kernel, tile):
    layout = Layout(direction, pattern, text, (height, width), kernel)
    tiles = build_tiles(layout.visible(), layout.order(max(tile)), *tile)
    assert (visibility_from_tiles(tiles) == layout.visible()).all()
    assert sorted(tiles.order[tiles.order >= 0]) == list(range(layout.length))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_lists_by_query_and_by_key_contain_the_same_tiles(direction, pattern):
    tiles = build(direction, pattern, 20, (9, 7), 5).tiles()

    def listed(side):
        return [
            (block, int(other), int(kind))
            for block in range(len(side))
            for other, kind in zip(side.others[side.of(block)], side.kinds[side.of(block)], strict=True)
        ]

    by_query, by_key = listed(tiles.by_query), listed(tiles.by_key)
    assert by_query == sorted(by_query) and by_key == sorted(by_key)
    assert sorted((query, key, kind) for key, query, kind in by_key) == by_query


@pytest.mark.parametrize(
    "direction, pattern, tiles, masks",
    [
        # 2 text blocks see 2 text blocks; each of 32 rows sees the text, itself and the row above (except the first)
        ("text_to_image", "row", 2 * 2 + 32 * 4 - 1, 2),
        ("text_to_image", "column", 2 * 2 + 32 * 3, 1),
        ("image_to_text", "column", 32 + 2 * 34 - 1, 1),
        ("text_to_image", "full", 2 * 2 + 32 * 2 + 32 * 33 // 2, 1),
    ],
)
def test_number_of_tiles_for_the_papers_shape(direction, pattern, tiles, masks):
    """Compared with a count by hand."""
    layout = build(direction, pattern, *PAPER).tiles()
    assert len(layout.by_query.others) == tiles and len(layout.masks) == masks


def test_each_part_starts_at_a_tile_boundary():
    order = padded_order([np.arange(5), 5 + np.arange(40)], 32)
    assert len(order) == 96 and (order[5:32] == -1).all() and order[32] == 5 and (order[72:] == -1).all()


def test_layouts_are_computed_once():
    assert build("text_to_image", "row", 5, (4, 4), 3) is build("text_to_image", "row", 5, (4, 4), 3)
    layout = build("text_to_image", "row", 5, (4, 4), 3)
    assert layout.tiles() is layout.tiles() and layout.packed is layout.packed


def test_tiles_that_do_not_fit_are_refused():
    layout = build("text_to_image", "row", 5, (4, 4), 3)
    with pytest.raises(ValueError, match="cannot be divided into tiles"):
        build_tiles(layout.visible(), layout.order(32), 128, 32)
