"""Attention of one new token at a time, over the keys and values that it and later tokens can still see.

What is kept follows from the same visibility as everything else: a key has a place until the last query that sees it,
then its place goes to another. A `row` layer so keeps the w + 1 newest image tokens, a `conv` layer what its window
can reach, a `column` layer all of them, of which a step reads one column.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import paddle
import paddle.nn.functional as F

from vilg.attention.layout import Layout
from vilg.attention.patterns import TEXT_TO_IMAGE


@dataclass(frozen=True)
class Places:
    """Where the target's keys are kept, step by step.

    own[t] is the place of target token t, seen[t] the places that it reads, its own among them; `count` places in all.
    Every target token sees the whole source, which is kept apart.
    """

    own: np.ndarray
    seen: list[np.ndarray]
    count: int


@cache
def places(layout: Layout) -> Places:
    """The fewest places that serve every step of `layout`, whose target tokens come one after the other."""
    start = source_length(layout)
    visible = layout.visible()[start:]
    assert visible[:, :start].all(), "a target token sees the whole source"
    visible = visible[:, start:]
    last_reader = len(visible) - 1 - visible[::-1].argmax(0)
    own, free, count = np.empty(len(visible), np.int64), [], 0
    for token in range(len(visible)):
        if token:
            free += own[:token][last_reader[:token] == token - 1].tolist()
        if not free:
            free, count = [count], count + 1
        own[token] = free.pop()
    return Places(own, [own[: token + 1][row[: token + 1]] for token, row in enumerate(visible)], count)


def source_length(layout: Layout) -> int:
    """How many positions the source has: the text in text_to_image, the image in image_to_text."""
    return layout.text_length if layout.direction == TEXT_TO_IMAGE else layout.length - layout.text_length


class KVCache:
    """Something of every target token, [..] each, for as long as a later one sees it."""

    def __init__(self, layout: Layout, shape: list[int], dtype: str | paddle.dtype = "float32"):
        self.places, self.step = places(layout), 0
        # The place stands first, so that writing one touches nothing else.
        self.rows = paddle.zeros([self.places.count, *shape], dtype)

    def put(self, row: paddle.Tensor) -> None:
        """What is kept of the next token, [1, ..]. Raises IndexError behind the last."""
        if self.step == len(self.places.own):
            raise IndexError(f"all {self.step} tokens of the target are there")
        paddle.scatter_(self.rows, paddle.to_tensor(self.places.own[self.step : self.step + 1]), row)

    def window(self) -> tuple[paddle.Tensor, int]:
        """What the next token sees, [seen, ..], and which of these rows is its own."""
        seen = self.places.seen[self.step]
        if len(seen) == self.places.count:
            return self.rows, int(self.places.own[self.step])
        return paddle.index_select(self.rows, paddle.to_tensor(seen)), len(seen) - 1

    def advance(self) -> None:
        self.step += 1

    def reorder(self, rows: paddle.Tensor, axis: int) -> None:
        """Go on with `rows` of `axis` of what is kept."""
        self.rows = paddle.index_select(self.rows, rows, axis=axis)


class AttentionCache:
    """One layer's cache for `samples` continuations of each of P sources; a source is kept once for all of them."""

    def __init__(self, layout: Layout, source_k: paddle.Tensor, source_v: paddle.Tensor, samples: int = 1):
        """source_k, source_v: [P, source length, H, D], the keys and values of the source."""
        sources, length, heads, size = source_k.shape
        if length != source_length(layout):
            raise ValueError(f"a source of {length} positions given, the layout has {source_length(layout)}")
        self._source = arrange_source(source_k, source_v)
        self._k, self._v = (KVCache(layout, [sources * samples, heads, size], source_k.dtype) for _ in range(2))

    @property
    def num_elements(self) -> int:
        """How many numbers are kept."""
        return sum(kept.size for kept in (*self._source, self._k.rows, self._v.rows))

    @paddle.no_grad()
    def attend(self, q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
        """The next target token of each continuation: q, k, v [P samples, 1, H, D] -> [P samples, 1, H, D].

        Continuations of one source stand behind each other. Raises IndexError behind the last target token.
        """
        seen = []
        for kept, new in ((self._k, k), (self._v, v)):
            kept.put(new.squeeze(1).unsqueeze(0))
            seen.append(kept.window()[0])
            kept.advance()
        return attend_token(q, *seen, *self._source)

    def skip_to(self, step: int) -> None:
        """As if the tokens before had come: for measuring."""
        self._k.step = self._v.step = step

    def reorder(self, rows: paddle.Tensor) -> None:
        """Go on with continuations `rows` [P samples] of those there are, each of the same source as the one it
        replaces."""
        for kept in (self._k, self._v):
            kept.reorder(rows, axis=1)


def attend_token(
    q: paddle.Tensor, seen_k: paddle.Tensor, seen_v: paddle.Tensor, source_k: paddle.Tensor, source_v: paddle.Tensor
) -> paddle.Tensor:
    """One query of each continuation over the target tokens that it sees and over its whole source.

    q [P samples, 1, H, D]; seen_k, seen_v [seen, P samples, H, D]; source_k, source_v as `arrange_source` gives them ->
    [P samples, 1, H, D]. It can be traced, with any number of sources, samples and seen tokens.
    """
    sources, length = source_k.shape[0], source_v.shape[2]
    heads, size = q.shape[2], q.shape[3]
    q = q.squeeze(1) * size**-0.5  # [P samples, H, D]
    of_source = q.reshape([sources, -1, heads, size]).transpose([0, 2, 1, 3])  # [P, H, samples, D]
    scores = paddle.concat(
        [
            paddle.matmul(of_source, source_k).transpose([0, 2, 1, 3]).flatten(0, 1),  # [P samples, H, length]
            paddle.matmul(seen_k.transpose([1, 2, 0, 3]), q.unsqueeze(-1)).squeeze(-1),
        ],
        axis=-1,
    )
    weights = F.softmax(scores.astype("float32"), axis=-1).astype(seen_v.dtype)
    to_source = weights[:, :, :length].reshape([sources, -1, heads, length]).transpose([0, 2, 1, 3])
    attended = paddle.matmul(to_source, source_v).transpose([0, 2, 1, 3]).flatten(0, 1)  # [P samples, H, D]
    to_seen = paddle.matmul(weights[:, :, length:].unsqueeze(2), seen_v.transpose([1, 2, 0, 3])).squeeze(2)
    return (attended + to_seen).unsqueeze(1)


def arrange_source(source_k: paddle.Tensor, source_v: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Keys and values [P, length, H, D] of a source -> [P, H, D, length] and [P, H, length, D], as products read
    them."""
    return source_k.transpose([0, 2, 3, 1]), source_v.transpose([0, 2, 1, 3])
