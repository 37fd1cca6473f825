"""The masks as a picture: the paper's figure 2 for every direction and pattern."""

from vilg.attention.patterns import DIRECTIONS, PATTERNS, TEXT_TO_IMAGE, visibility

_CELL, _GAP, _LABEL = 9, 26, 34
_TEXT_KEY, _IMAGE_KEY, _UNSEEN = "#e8963a", "#3a7bd5", "#f1f1f1"


def draw_patterns(text_length: int, grid: tuple[int, int], kernel: int) -> str:
    """An SVG with one square for each direction (rows) and pattern (columns).

    In a square a line is a query, a column a key; orange is text that is seen, blue is image that is seen.
    """
    side = (text_length + grid[0] * grid[1]) * _CELL
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
            parts.append(f'<text x="{left}" y="{top - 10}">{direction}, {name}</text>')
            parts += _square(left, top, direction, visibility(direction, pattern, text_length, grid, kernel),
                             text_length)
    return "\n".join([*parts, "</svg>\n"])


def _square(left: int, top: int, direction: str, seen, text_length: int) -> list[str]:
    length = len(seen)
    texts = range(text_length) if direction == TEXT_TO_IMAGE else range(length - text_length, length)
    cells = []
    for query in range(length):
        for key in range(length):
            colour = _UNSEEN if not seen[query, key] else _TEXT_KEY if key in texts else _IMAGE_KEY
            cells.append(f'<rect x="{left + key * _CELL}" y="{top + query * _CELL}" width="{_CELL - 1}" '
                         f'height="{_CELL - 1}" fill="{colour}"/>')
    return cells
