"""A visibility matrix divided into tiles, for the sparse operator and the block-wise backend.

Most tiles of a sparse pattern are empty and are left out. Many of the others are full, and the rest share few distinct
shapes. A layout is therefore a CSR list of tiles over query blocks, the transposed list over key blocks (for the
gradients of keys and values), and the distinct bit masks.
"""

from dataclasses import dataclass

import numpy as np

FULL = -1  # kind of a tile in which every query sees every key

_VERSION = 1  # of `Tiles.packed`; csrc/layout.h reads it
HEADER = 8


@dataclass(frozen=True)
class TileCSR:
    """Compressed sparse rows: block b has the tiles starts[b] .. starts[b+1]-1, in ascending order of the other block.

    others: index of the block on the other side. kinds: FULL or the index of a bit mask. All int32.
    """

    starts: np.ndarray
    others: np.ndarray
    kinds: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, block: int) -> slice:
        """The slice of tiles of a block."""
        return slice(self.starts[block], self.starts[block + 1])


@dataclass(frozen=True)
class Tiles:
    """The tiles of a pattern.

    queries, keys: size of a tile. order: int32 [P], the sequence position at each place of the tiled order, -1 for
    padding. by_query, by_key: the tiles by query block and by key block. masks: uint32 [kinds, keys, queries / 32]; bit
    i of masks[kind, j, w] says whether query 32 w + i sees key j.
    """

    length: int
    queries: int
    keys: int
    order: np.ndarray
    by_query: TileCSR
    by_key: TileCSR
    masks: np.ndarray

    @property
    def computed_pairs(self) -> int:
        """Number of computed (query, key) pairs, including padding."""
        return len(self.by_query.others) * self.queries * self.keys

    def packed(self) -> np.ndarray:
        """All arrays in one int32 array with a header, the format of the operator."""
        header = [
            _VERSION,
            self.length,
            len(self.order),
            self.queries,
            self.keys,
            len(self.by_query.others),
            len(self.masks),
            0,
        ]
        assert len(header) == HEADER
        arrays = [
            self.order,
            self.by_query.starts,
            self.by_query.others,
            self.by_query.kinds,
            self.by_key.starts,
            self.by_key.others,
            self.by_key.kinds,
            self.masks.view(np.int32).ravel(),
        ]
        return np.concatenate([np.asarray(header, np.int32), *arrays])


def padded_order(parts: list[np.ndarray], multiple: int) -> np.ndarray:
    """The parts (text, image) one after the other, each padded with -1 to a multiple of the tile size.

    If a part began within a tile, every row would touch one more tile.
    """
    padded = [np.concatenate([part, np.full(-len(part) % multiple, -1)]) for part in parts]
    return np.concatenate(padded).astype(np.int32)


def build_tiles(visible: np.ndarray, order: np.ndarray, queries: int, keys: int) -> Tiles:
    """The tiles of `visible` (bool [S, S], True at [query, key]) in the order `order`.

    queries has to be a multiple of 32; len(order) has to be a multiple of queries and of keys.
    """
    if queries % 32 or len(order) % queries or len(order) % keys:
        raise ValueError(f"an order of {len(order)} positions cannot be divided into tiles of {queries} x {keys}")
    used = np.flatnonzero(order >= 0)
    ordered = np.zeros([len(order)] * 2, dtype=bool)
    ordered[np.ix_(used, used)] = visible[np.ix_(order[used], order[used])]
    tiles = ordered.reshape(len(order) // queries, queries, len(order) // keys, keys).transpose(0, 2, 3, 1)
    query_block, key_block = np.nonzero(tiles.any((2, 3)))
    tiles = tiles[query_block, key_block]  # [tiles, keys, queries]
    full = tiles.all((1, 2))
    bits = np.ascontiguousarray(np.packbits(tiles[~full], axis=-1, bitorder="little")).view(np.uint32)
    masks, mask_of_tile = np.unique(bits.reshape(len(bits), keys * queries // 32), axis=0, return_inverse=True)
    kinds = np.full(len(tiles), FULL, np.int32)
    kinds[~full] = mask_of_tile.ravel()
    return Tiles(
        len(visible),
        queries,
        keys,
        order,
        _build_csr(query_block, key_block, kinds, len(order) // queries),
        _build_csr(key_block, query_block, kinds, len(order) // keys),
        masks.reshape(-1, keys, queries // 32),
    )


def _build_csr(blocks: np.ndarray, others: np.ndarray, kinds: np.ndarray, count: int) -> TileCSR:
    by_block = np.lexsort((others, blocks))
    starts = np.concatenate([[0], np.cumsum(np.bincount(blocks, minlength=count))])
    return TileCSR(starts.astype(np.int32), others[by_block].astype(np.int32), kinds[by_block])
