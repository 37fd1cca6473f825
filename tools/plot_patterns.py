"""Draws the pictures of docs/attention.md.

docs/patterns.svg: the masks for 6 text tokens, a 4 x 4 grid and a 3 x 3 kernel (figure 2 of the paper). docs/tiles.svg:
the tiles for 64 text tokens, a 32 x 32 grid and an 11 x 11 kernel, as in the paper.
"""

from pathlib import Path

from vilg.attention.plot import plot_patterns, plot_tiles

DOCS = Path(__file__).parent.parent / "docs"

if __name__ == "__main__":
    for file, picture in (
        (DOCS / "patterns.svg", plot_patterns(6, (4, 4), 3)),
        (DOCS / "tiles.svg", plot_tiles(64, (32, 32), 11)),
    ):
        file.write_text(picture)
        print(file)
