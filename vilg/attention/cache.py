"""Attention of one new token at a time, with caches of the keys and values that later tokens can still see.

The cache layout follows from the visibility: each key has a slot until the last query that sees it, and then the slot
is reused. A `row` layer therefore keeps the w + 1 newest image tokens, a `conv` layer what its window can reach, and a
`column` layer all image tokens, of which a step reads one column.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import paddle
import paddle.nn.functional as F

from vilg.attention.layout import Layout
from vilg.attention.patterns import TEXT_TO_IMAGE


@dataclass(frozen=True)
class CacheSlots:
    """The cache slots of the target's keys, step by step.

    own[t]: slot of target token t. visible[t]: slots that it reads, including its own. count: number of slots. All
    target tokens see the whole source, which is stored separately.
    """

    own: np.ndarray
    visible: list[np.ndarray]
    count: int


@cache
def cache_slots(layout: Layout) -> CacheSlots:
    """The smallest set of slots that serves every step of `layout`, whose target tokens come one at a time."""
    start = source_length(layout)
    visible = layout.visible()[start:]
    assert visible[:, :start].all(), "every target token sees the whole source"
    visible = visible[:, start:]
    last_reader = len(visible) - 1 - visible[::-1].argmax(0)
    own, free, count = np.empty(len(visible), np.int64), [], 0
    for token in range(len(visible)):
        if token:
            free += own[:token][last_reader[:token] == token - 1].tolist()
        if not free:
            free, count = [count], count + 1
        own[token] = free.pop()
    return CacheSlots(own, [own[: token + 1][row[: token + 1]] for token, row in enumerate(visible)], count)


def source_length(layout: Layout) -> int:
    """Number of source positions: the text in text_to_image, the image in image_to_text."""
    return layout.text_length if layout.direction == TEXT_TO_IMAGE else layout.length - layout.text_length


class KVCache:
    """Stores a value [..] of every target token for as long as a later token sees it."""

    def __init__(self, layout: Layout, shape: list[int], dtype: paddle.dtype = paddle.float32):
        self.cache_slots, self.step = cache_slots(layout), 0
        # The slot is the first axis, so that writing one is contiguous.
        self.rows = paddle.zeros([self.cache_slots.count, *shape], dtype)

    def put(self, row: paddle.Tensor) -> None:
        """Store the value [1, ..] of the next token. Raises IndexError after the last token."""
        if self.step == len(self.cache_slots.own):
            raise IndexError(f"all {self.step} target tokens have been processed")
        paddle.scatter_(self.rows, paddle.to_tensor(self.cache_slots.own[self.step : self.step + 1]), row)

    def window(self) -> tuple[paddle.Tensor, int]:
        """The values that the next token sees, [visible, ..], and the index of its own row."""
        visible = self.cache_slots.visible[self.step]
        if len(visible) == self.cache_slots.count:
            return self.rows, int(self.cache_slots.own[self.step])
        return paddle.index_select(self.rows, paddle.to_tensor(visible)), len(visible) - 1

    def advance(self) -> None:
        self.step += 1

    def reorder(self, rows: paddle.Tensor, axis: int) -> None:
        """Continue with `rows` along `axis` of all stored values."""
        self.rows = paddle.index_select(self.rows, rows, axis=axis)


class AttentionCache:
    """The cache of one layer for `samples` continuations of each of P sources. Each source is stored once."""

    def __init__(self, layout: Layout, source_k: paddle.Tensor, source_v: paddle.Tensor, samples: int = 1):
        """source_k, source_v: [P, source length, H, D], keys and values of the source."""
        sources, length, heads, size = source_k.shape
        if length != source_length(layout):
            raise ValueError(f"a source of {length} positions given, the layout has {source_length(layout)}")
        self._source = arrange_source(source_k, source_v)
        self._k, self._v = (KVCache(layout, [sources * samples, heads, size], source_k.dtype) for _ in range(2))

    @property
    def num_elements(self) -> int:
        """Number of stored elements."""
        return sum(stored.size for stored in (*self._source, self._k.rows, self._v.rows))

    @paddle.no_grad()
    def attend(self, q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
        """The next target token of each continuation: q, k, v [P samples, 1, H, D] -> [P samples, 1, H, D].

        Continuations of one source are next to each other. Raises IndexError after the last target token.
        """
        visible = []
        for stored, new in ((self._k, k), (self._v, v)):
            stored.put(new.squeeze(1).unsqueeze(0))
            visible.append(stored.window()[0])
            stored.advance()
        visible_k, visible_v = visible
        return attend_token(q, visible_k, visible_v, *self._source)

    def skip_to(self, step: int) -> None:
        """Pretend that all tokens before `step` have been processed, for measurements."""
        self._k.step = self._v.step = step

    def reorder(self, rows: paddle.Tensor) -> None:
        """Continue with the continuations `rows` [P samples], each of the same source as the one it replaces."""
        for stored in (self._k, self._v):
            stored.reorder(rows, axis=1)


def attend_token(
    q: paddle.Tensor,
    visible_k: paddle.Tensor,
    visible_v: paddle.Tensor,
    source_k: paddle.Tensor,
    source_v: paddle.Tensor,
) -> paddle.Tensor:
    """Attention of one query of each continuation over its visible target tokens and its whole source.

    q: [P samples, 1, H, D]. visible_k, visible_v: [visible, P samples, H, D]. source_k, source_v: from
    `arrange_source`.
    Returns [P samples, 1, H, D]. Can be traced with any number of sources, samples and visible tokens.
    """
    sources, length = source_k.shape[0], source_v.shape[2]
    heads, size = q.shape[2], q.shape[3]
    q = q.squeeze(1) * size**-0.5  # [P samples, H, D]
    of_source = q.reshape([sources, -1, heads, size]).transpose([0, 2, 1, 3])  # [P, H, samples, D]
    scores = paddle.concat(
        [
            paddle.matmul(of_source, source_k).transpose([0, 2, 1, 3]).flatten(0, 1),  # [P samples, H, length]
            paddle.matmul(visible_k.transpose([1, 2, 0, 3]), q.unsqueeze(-1)).squeeze(-1),
        ],
        axis=-1,
    )
    weights = F.softmax(scores.astype("float32"), axis=-1).astype(visible_v.dtype)
    to_source = weights[:, :, :length].reshape([sources, -1, heads, length]).transpose([0, 2, 1, 3])
    attended = paddle.matmul(to_source, source_v).transpose([0, 2, 1, 3]).flatten(0, 1)  # [P samples, H, D]
    to_visible = paddle.matmul(weights[:, :, length:].unsqueeze(2), visible_v.transpose([1, 2, 0, 3])).squeeze(2)
    return (attended + to_visible).unsqueeze(1)


def arrange_source(source_k: paddle.Tensor, source_v: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Keys and values [P, length, H, D] -> [P, H, D, length] and [P, H, length, D], the layouts for matrix products."""
    return source_k.transpose([0, 2, 3, 1]), source_v.transpose([0, 2, 1, 3])
