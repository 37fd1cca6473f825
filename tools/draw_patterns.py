"""Draw docs/patterns.svg: who sees whom, for 6 text tokens, a 4 x 4 grid and a 3 x 3 kernel (the paper's figure 2)."""

from pathlib import Path

from vilg.attention.picture import draw_patterns

TARGET = Path(__file__).parent.parent / "docs" / "patterns.svg"

if __name__ == "__main__":
    TARGET.write_text(draw_patterns(6, (4, 4), 3))
    print(TARGET)
