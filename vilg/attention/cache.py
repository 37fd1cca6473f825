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


class AttentionCache:
    """One layer's cache for `samples` continuations of each of P sources; a source is kept once for all of them."""

    def __init__(self, layout: Layout, source_k: paddle.Tensor, source_v: paddle.Tensor, samples: int = 1):
        """source_k, source_v: [P, source length, H, D], the keys and values of the source."""
        sources, length, heads, size = source_k.shape
        if length != source_length(layout):
            raise ValueError(f"a source of {length} positions given, the layout has {source_length(layout)}")
        self.places, self.samples, self.step = places(layout), samples, 0
        self._source_k = source_k.transpose([0, 2, 3, 1])  # [P, H, D, length]
        self._source_v = source_v.transpose([0, 2, 1, 3])  # [P, H, length, D]
        # The place stands first, so that writing one touches nothing else.
        self._k, self._v = (paddle.zeros([self.places.count, sources * samples, heads, size], source_k.dtype)
                            for _ in range(2))

    @property
    def numbers(self) -> int:
        """How many numbers are kept."""
        return self._source_k.size + self._source_v.size + self._k.size + self._v.size

    @paddle.no_grad()
    def attend(self, q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
        """The next target token of each continuation: q, k, v [P samples, 1, H, D] -> [P samples, 1, H, D].

        Continuations of one source stand behind each other. Raises IndexError behind the last target token.
        """
        if self.step == len(self.places.own):
            raise IndexError(f"all {self.step} tokens of the target are there")
        place = paddle.to_tensor(self.places.own[self.step : self.step + 1])
        paddle.scatter_(self._k, place, k.squeeze(1).unsqueeze(0))
        paddle.scatter_(self._v, place, v.squeeze(1).unsqueeze(0))
        seen_k, seen_v = self._seen()
        self.step += 1
        sources, heads, size = len(self._source_k), q.shape[2], q.shape[3]
        q = q.squeeze(1) * size**-0.5  # [P samples, H, D]
        of_source = q.reshape([sources, self.samples, heads, size]).transpose([0, 2, 1, 3])  # [P, H, samples, D]
        scores = paddle.concat([
            paddle.matmul(of_source, self._source_k).transpose([0, 2, 1, 3]).flatten(0, 1),  # [P samples, H, length]
            paddle.matmul(seen_k, q.unsqueeze(-1)).squeeze(-1),
        ], axis=-1)
        weights = F.softmax(scores.astype("float32"), axis=-1).astype(v.dtype)
        length = self._source_k.shape[-1]
        to_source = weights[:, :, :length].reshape([sources, self.samples, heads, length]).transpose([0, 2, 1, 3])
        attended = paddle.matmul(to_source, self._source_v).transpose([0, 2, 1, 3]).flatten(0, 1)  # [P samples, H, D]
        return (attended + paddle.matmul(weights[:, :, length:].unsqueeze(2), seen_v).squeeze(2)).unsqueeze(1)

    def reorder(self, rows: paddle.Tensor) -> None:
        """Go on with continuations `rows` [P samples] of those there are, each of the same source as the one it
        replaces."""
        self._k, self._v = (paddle.index_select(kept, rows, axis=1) for kept in (self._k, self._v))

    def _seen(self) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Keys and values that the new token reads, [P samples, H, seen, D]."""
        seen = self.places.seen[self.step]
        k, v = self._k, self._v
        if len(seen) < self.places.count:
            chosen = paddle.to_tensor(seen)
            k, v = paddle.index_select(k, chosen), paddle.index_select(v, chosen)
        return k.transpose([1, 2, 0, 3]), v.transpose([1, 2, 0, 3])
