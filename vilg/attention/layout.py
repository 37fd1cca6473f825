"""The layout of attention for one pattern, direction and shape, which replaces a mask. Computed once and cached."""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import paddle

from vilg.attention.patterns import TEXT_TO_IMAGE, visibility
from vilg.attention.tiles import HEADER, Tiles, build_tiles, padded_order

CPU_TILE = 32  # queries and keys of a tile in the CPU kernel and in the block-wise backend
GPU_OWNED, GPU_PASSED = 64, 32  # csrc/attention_cuda.h


class Constant:
    """`tensor()` is one shared tensor in eager mode, and a constant of the graph in tracing.

    A traced program that refers to an outside tensor cannot be saved.
    """

    def __init__(self, array: np.ndarray):
        self.array = array

    def tensor(self) -> paddle.Tensor:
        return self._shared if paddle.in_dynamic_mode() else paddle.assign(self.array)

    @cached_property
    def _shared(self) -> paddle.Tensor:
        return paddle.to_tensor(self.array)


@dataclass(frozen=True)
class PackedTiles:
    """Tiles in the format of the operator: an int32 `tensor` on the device, and the headers for the host."""

    tensor: Constant
    headers: list[int]

    @classmethod
    def of(cls, *tiles: Tiles) -> "PackedTiles":
        arrays = [tile.packed() for tile in tiles]
        return cls(Constant(np.concatenate(arrays)), np.concatenate([array[:HEADER] for array in arrays]).tolist())


@dataclass(frozen=True)
class Layout:
    """The visibility of one (direction, pattern, T, grid, kernel). Create it with `build`, which caches it."""

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
        """The layout of the source alone, which does not depend on target tokens."""
        if self.direction == TEXT_TO_IMAGE:
            return build(self.direction, self.pattern, self.text_length, (0, 0), self.kernel)
        return build(self.direction, self.pattern, 0, self.grid, self.kernel)

    def visible(self) -> np.ndarray:
        """bool [S, S], True at [query, key]."""
        return visibility(self.direction, self.pattern, self.text_length, self.grid, self.kernel)

    @cached_property
    def additive_mask(self) -> Constant:
        """fp32 [S, S]: 0 where a query sees a key, -inf elsewhere. Every row has a 0, since each token sees itself."""
        return Constant(np.where(self.visible(), 0.0, -np.inf).astype("float32"))

    def order(self, multiple: int) -> np.ndarray:
        """Sequence positions in the order of the tiles, each part padded to a multiple of the tile size.

        For `column`, image tokens are in column order, which makes a column contiguous like a row.
        """
        text = np.arange(self.text_length)
        image = np.arange(self.grid[0] * self.grid[1])
        if self.pattern == "column":
            image = image.reshape(self.grid).T.ravel()
        if self.direction == TEXT_TO_IMAGE:
            return padded_order([text, self.text_length + image], multiple)
        return padded_order([image, len(image) + text], multiple)

    @cache  # noqa: B019  layouts are cached for the life of the process anyway
    def tiles(self, queries: int = CPU_TILE, keys: int = CPU_TILE) -> Tiles:
        """The tiles of queries x keys positions."""
        return build_tiles(self.visible(), self.order(max(queries, keys)), queries, keys)

    @cached_property
    def packed(self) -> "PackedTiles":
        """The tiles for the operator on a CPU."""
        return PackedTiles.of(self.tiles())

    @cached_property
    def packed_for_gpu(self) -> "PackedTiles":
        """The tiles for the operator on a GPU: for the pass that owns queries, and for the one that owns keys."""
        return PackedTiles.of(self.tiles(GPU_OWNED, GPU_PASSED), self.tiles(GPU_PASSED, GPU_OWNED))


@cache
def build(direction: str, pattern: str, text_length: int, grid: tuple[int, int], kernel: int) -> Layout:
    """The layout for these arguments. Equal arguments give the same object."""
    return Layout(direction, pattern, text_length, (grid[0], grid[1]), kernel)
