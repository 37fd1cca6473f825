"""The figures in the docs show the visibility and the tiles, and are up to date."""

from pathlib import Path
from xml.etree import ElementTree as ET

from vilg.attention.layout import build
from vilg.attention.patterns import DIRECTIONS, PATTERNS, visibility
from vilg.attention.plot import plot_patterns, plot_tiles

DOCS = Path(__file__).parents[2] / "docs"


def test_every_pair_is_a_cell_of_the_right_colour():
    cells = list(ET.fromstring(plot_patterns(6, (4, 4), 3)).iter("{http://www.w3.org/2000/svg}rect"))[1:]
    seen = [
        bool(pair)
        for direction in DIRECTIONS
        for pattern in PATTERNS
        for pair in visibility(direction, pattern, 6, (4, 4), 3).ravel()
    ]
    assert [cell.get("fill") != "#f1f1f1" for cell in cells] == seen


def test_figures_in_the_docs_are_up_to_date():
    assert (DOCS / "patterns.svg").read_text() == plot_patterns(6, (4, 4), 3), "run tools/plot_patterns.py"
    assert (DOCS / "tiles.svg").read_text() == plot_tiles(64, (32, 32), 11), "run tools/plot_patterns.py"


def test_every_tile_is_plotted():
    cells = list(ET.fromstring(plot_tiles(20, (9, 8), 5)).iter("{http://www.w3.org/2000/svg}rect"))[1:]
    tiles = [build(direction, pattern, 20, (9, 8), 5).tiles() for direction in DIRECTIONS for pattern in PATTERNS]
    assert len(cells) == sum(1 + len(one.by_query.others) for one in tiles)
