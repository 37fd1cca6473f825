"""What attention is given instead of a mask: one pattern, direction and shape, computed once and kept."""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import paddle

from vilg.attention.patterns import visibility


@dataclass(frozen=True)
class Layout:
    """The visibility of one (direction, pattern, T, grid, kernel). Make it with `build`, so that it is shared."""

    direction: str
    pattern: str
    text_length: int
    grid: tuple[int, int]
    kernel: int

    @property
    def length(self) -> int:
        """S, the number of positions."""
        return self.text_length + self.grid[0] * self.grid[1]

    @cached_property
    def visible(self) -> np.ndarray:
        """bool [S, S], True at [query, key]."""
        return visibility(self.direction, self.pattern, self.text_length, self.grid, self.kernel)

    @cached_property
    def additive_mask(self) -> paddle.Tensor:
        """fp32 [S, S]: 0 where a query sees a key, -inf elsewhere. No row is all -inf: each token sees itself."""
        return paddle.to_tensor(np.where(self.visible, 0.0, -np.inf).astype("float32"))


@cache
def build(direction: str, pattern: str, text_length: int, grid: tuple[int, int], kernel: int) -> Layout:
    """The layout of these arguments; the same object for the same arguments."""
    return Layout(direction, pattern, text_length, grid, kernel)
