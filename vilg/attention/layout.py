"""What attention is given instead of a mask: one pattern, direction and shape, computed once and kept."""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import paddle

from vilg.attention.patterns import TEXT_TO_IMAGE, visibility
from vilg.attention.tiles import HEADER, Tiles, build_tiles, padded_order

CPU_TILE = 32  # queries and keys of a tile of the CPU kernel and of the block-wise path
GPU_OWNED, GPU_PASSED = 64, 32  # csrc/attention_cuda.h


class Constant:
    """`tensor()` is one shared tensor while programs run at once, and a constant of the graph while one is traced:
    a traced program that reads a tensor from outside cannot be saved."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def tensor(self) -> paddle.Tensor:
        return self._shared if paddle.in_dynamic_mode() else paddle.assign(self.array)

    @cached_property
    def _shared(self) -> paddle.Tensor:
        return paddle.to_tensor(self.array)


@dataclass(frozen=True)
class Packed:
    """Tiles as the operator takes them: `tensor` int32, where it computes, and their headers, for the host."""

    tensor: Constant
    headers: list[int]

    @classmethod
    def of(cls, *tiles: Tiles) -> "Packed":
        arrays = [one.packed() for one in tiles]
        return cls(Constant(np.concatenate(arrays)), np.concatenate([array[:HEADER] for array in arrays]).tolist())


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

    def source(self) -> "Layout":
        """The layout of the source alone, which no target token changes."""
        if self.direction == TEXT_TO_IMAGE:
            return build(self.direction, self.pattern, self.text_length, (0, 0), self.kernel)
        return build(self.direction, self.pattern, 0, self.grid, self.kernel)

    def visible(self) -> np.ndarray:
        """bool [S, S], True at [query, key]."""
        return visibility(self.direction, self.pattern, self.text_length, self.grid, self.kernel)

    @cached_property
    def additive_mask(self) -> Constant:
        """fp32 [S, S]: 0 where a query sees a key, -inf elsewhere. No row is all -inf: each token sees itself."""
        return Constant(np.where(self.visible(), 0.0, -np.inf).astype("float32"))

    def order(self, multiple: int) -> np.ndarray:
        """Sequence positions in the order in which the pattern is narrow, each part padded to a multiple of a tile.

        The image tokens of `column` stand column by column, which turns a column into neighbours, as in a row.
        """
        text = np.arange(self.text_length)
        image = np.arange(self.grid[0] * self.grid[1])
        if self.pattern == "column":
            image = image.reshape(self.grid).T.ravel()
        if self.direction == TEXT_TO_IMAGE:
            return padded_order([text, self.text_length + image], multiple)
        return padded_order([image, len(image) + text], multiple)

    @cache
    def tiles(self, queries: int = CPU_TILE, keys: int = CPU_TILE) -> Tiles:
        return build_tiles(self.visible(), self.order(max(queries, keys)), queries, keys)

    @cached_property
    def packed(self) -> "Packed":
        """What the operator takes on a CPU."""
        return Packed.of(self.tiles())

    @cached_property
    def packed_for_gpu(self) -> "Packed":
        """What the operator takes on a GPU: one pass owns queries, the other keys."""
        return Packed.of(self.tiles(GPU_OWNED, GPU_PASSED), self.tiles(GPU_PASSED, GPU_OWNED))


@cache
def build(direction: str, pattern: str, text_length: int, grid: tuple[int, int], kernel: int) -> Layout:
    """The layout of these arguments; the same object for the same arguments."""
    return Layout(direction, pattern, text_length, tuple(grid), kernel)
