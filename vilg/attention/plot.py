"""Draws masks and tiles as SVG: figure 2 of the paper for all directions and patterns."""

from collections.abc import Callable

from vilg.attention.layout import build
from vilg.attention.patterns import DIRECTIONS, PATTERNS, TEXT_TO_IMAGE, visibility
from vilg.attention.tiles import FULL

_CELL, _TILE, _GAP, _LABEL = 9, 6, 26, 34
_TEXT_KEY, _IMAGE_KEY, _HIDDEN_PAIR = "#e8963a", "#3a7bd5", "#f1f1f1"
_FULL, _PART = "#1f4e8c", "#8db8ea"


def plot_patterns(text_length: int, grid: tuple[int, int], kernel: int) -> str:
    """An SVG with one matrix for each direction (rows) and pattern (columns).

    In a matrix, a row is a query and a column is a key. Visible text is orange, visible image is blue.
    """

    def square(left: int, top: int, direction: str, pattern: str) -> list[str]:
        return _pairs(left, top, direction, visibility(direction, pattern, text_length, grid, kernel), text_length)

    return _all(square, (text_length + grid[0] * grid[1]) * _CELL, kernel)


def plot_tiles(text_length: int, grid: tuple[int, int], kernel: int) -> str:
    """The same matrices divided into tiles of the CPU kernel, in tiled order: dark tiles are full, light ones are
    partly visible, the rest is not computed. The share of computed tiles follows each name.
    """
    shares = {}

    def square(left: int, top: int, direction: str, pattern: str) -> list[str]:
        tiles = build(direction, pattern, text_length, grid, kernel).tiles()
        shares[direction, pattern] = len(tiles.by_query.others) / (len(tiles.by_query) * len(tiles.by_key))
        cells = []
        for block in range(len(tiles.by_query)):
            visible = tiles.by_query.of(block)
            for other, kind in zip(tiles.by_query.others[visible], tiles.by_query.kinds[visible], strict=True):
                cells.append(_cell(left, top, block, other, _TILE, _FULL if kind == FULL else _PART))
        return [_cell(left, top, 0, 0, len(tiles.by_query) * _TILE, _HIDDEN_PAIR), *cells]

    blocks = len(build(TEXT_TO_IMAGE, "row", text_length, grid, kernel).tiles().by_query)
    return _all(square, blocks * _TILE, kernel, lambda *which: f": {shares[which]:.0%}")


def _all(
    square: Callable[[int, int, str, str], list[str]],
    side: int,
    kernel: int,
    remark: Callable[[str, str], str] = lambda *which: "",
) -> str:
    """The matrices of all directions (rows) and patterns (columns) with their names, `side` pixels each."""
    width = len(PATTERNS) * (side + _GAP) + _GAP
    height = len(DIRECTIONS) * (side + _LABEL) + _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="14">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for row, direction in enumerate(DIRECTIONS):
        for column, pattern in enumerate(PATTERNS):
            left, top = _GAP + column * (side + _GAP), _LABEL + row * (side + _LABEL)
            name = f"{pattern} {kernel} x {kernel}" if pattern == "conv" else pattern
            elements = square(left, top, direction, pattern)
            parts.append(f'<text x="{left}" y="{top - 10}">{direction}, {name}{remark(direction, pattern)}</text>')
            parts += elements
    return "\n".join([*parts, "</svg>\n"])


def _pairs(left: int, top: int, direction: str, visible, text_length: int) -> list[str]:
    length = len(visible)
    texts = range(text_length) if direction == TEXT_TO_IMAGE else range(length - text_length, length)
    cells = []
    for query in range(length):
        for key in range(length):
            colour = _HIDDEN_PAIR if not visible[query, key] else _TEXT_KEY if key in texts else _IMAGE_KEY
            cells.append(_cell(left, top, query, key, _CELL, colour))
    return cells


def _cell(left: int, top: int, row: int, column: int, size: int, colour: str) -> str:
    return (
        f'<rect x="{left + column * size}" y="{top + row * size}" width="{size - 1}" height="{size - 1}" '
        f'fill="{colour}"/>'
    )
