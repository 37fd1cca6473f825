"""Block-sparse attention in plain Paddle, for devices without the compiled operator.

Query blocks that see equally many key blocks are computed together: their keys are gathered, and one batched product
computes their scores. No array has S x S elements.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import paddle
import paddle.nn.functional as F

from vilg.attention.layout import Constant, Layout
from vilg.attention.tiles import FULL, Tiles

_HIDDEN = -1e30  # finite, so that padding rows, which see no key and are never read, give no NaN


@dataclass(frozen=True)
class _Group:
    """m query blocks that see c key blocks each: blocks int64 [m], keys int64 [m c], mask fp32 [m, t, c t]."""

    count: int
    blocks: Constant
    keys: Constant
    mask: Constant


@dataclass(frozen=True)
class _Plan:
    """order: int64 [P], the sequence position at each place. back: int64 [S], the row of each position in the outputs
    of all groups.
    """

    order: Constant
    groups: list[_Group]
    back: Constant


def blockwise_attention(q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, layout: Layout) -> paddle.Tensor:
    """block_sparse_attention for any device and head size. Scores and softmax are in fp32."""
    plan, tile = _plan(layout), layout.tiles().queries
    heads, size = q.shape[2:]

    def blocks(x):  # [B, S, H, D] -> [B, H, P / t, t, D]
        tiled = paddle.index_select(x, plan.order.tensor(), axis=1)
        return tiled.reshape([0, -1, tile, heads, size]).transpose([0, 3, 1, 2, 4])

    q, k, v = blocks(q * size**-0.5), blocks(k), blocks(v)
    outputs = []
    for group in plan.groups:
        keys, rows = group.keys.tensor(), [0, heads, group.count, -1, size]
        seen_k, seen_v = (paddle.index_select(x, keys, axis=2).reshape(rows) for x in (k, v))
        scores = paddle.matmul(paddle.index_select(q, group.blocks.tensor(), axis=2), seen_k, transpose_y=True)
        weights = F.softmax(scores.astype("float32") + group.mask.tensor(), axis=-1).astype(v.dtype)
        outputs.append(paddle.matmul(weights, seen_v).transpose([0, 2, 3, 1, 4]).flatten(1, 2))
    return paddle.index_select(paddle.concat(outputs, axis=1), plan.back.tensor(), axis=1)


@cache
def _plan(layout: Layout) -> _Plan:
    tiles = layout.tiles()
    visible_counts = np.diff(tiles.by_query.starts)
    groups, ordered = [], []
    for count in np.unique(visible_counts[visible_counts > 0]):
        blocks = np.flatnonzero(visible_counts == count)
        keys = np.concatenate([tiles.by_query.others[tiles.by_query.of(int(block))] for block in blocks])
        mask = np.stack([_mask(tiles, int(block)) for block in blocks])
        groups.append(_Group(len(blocks), Constant(blocks), Constant(keys.astype(np.int64)), Constant(mask)))
        ordered.append((blocks[:, None] * tiles.queries + np.arange(tiles.queries)).ravel())
    positions = tiles.order[np.concatenate(ordered)]
    back = np.empty(tiles.length, np.int64)
    back[positions[positions >= 0]] = np.flatnonzero(positions >= 0)
    return _Plan(Constant(np.maximum(tiles.order, 0).astype(np.int64)), groups, Constant(back))


def _mask(tiles: Tiles, block: int) -> np.ndarray:
    """fp32 [queries, visible keys] of one query block: 0 or _HIDDEN."""
    parts = []
    for kind in tiles.by_query.kinds[tiles.by_query.of(block)]:
        visible = np.ones([tiles.keys, tiles.queries], bool)
        if kind != FULL:
            visible = np.unpackbits(tiles.masks[kind].view(np.uint8), axis=-1, bitorder="little").astype(bool)
        parts.append(np.where(visible.T, 0.0, _HIDDEN).astype(np.float32))
    return np.concatenate(parts, axis=1)
