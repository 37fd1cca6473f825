"""The target of one direction token by token, each from what attention keeps of those before (attention/cache.py)."""

import numpy as np
import paddle

from vilg.attention.cache import AttentionCache
from vilg.attention.functional import block_sparse_attention
from vilg.attention.layout import Layout
from vilg.generation.reader import distinct
from vilg.model.transformer import Transformer


class Source:
    """What a layer sees while it reads the source, which no target token changes; keeps its keys and values.

    k, v: [P, source length, H, D].
    """

    def __init__(self, layout: Layout, backend: str):
        self._layout, self._backend = layout.source(), backend
        self.k = self.v = None

    def attend(self, q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
        self.k, self.v = k, v
        return block_sparse_attention(q, k, v, self._layout, self._backend)


def read_source(model: Transformer, direction: str, source: paddle.Tensor) -> tuple[paddle.Tensor, list[Source]]:
    """The hidden state [P, 1, hidden] of the source's last position, and what each layer keeps of the source."""
    x, kept = model.embed_source(direction, source), []
    for block, pattern in zip(model.blocks, model.patterns):
        kept.append(Source(model.layout(direction, pattern), block.attention.backend))
        x = block(x, kept[-1])
    return x[:, -1:], kept


class Decoder:
    """A Reading by a model in evaluation mode; sources are read once for all of their continuations.

    direction and source as in Transformer: text ids [P, T] or image ids [P, n].
    """

    @paddle.no_grad()
    def __init__(self, model: Transformer, direction: str, source: np.ndarray, samples: int = 1):
        self.model, self.direction, self.samples = model, direction, samples
        rows, spread = distinct(source)
        last, kept = read_source(model, direction, paddle.to_tensor(rows))
        self._last = spread(last)
        self._caches = [
            AttentionCache(model.layout(direction, pattern), spread(one.k), spread(one.v), samples)
            for pattern, one in zip(model.patterns, kept)
        ]
        self._place = 0

    @paddle.no_grad()
    def first(self) -> np.ndarray:
        return self.model.predict(self.direction, self._last)[:, 0].numpy().repeat(self.samples, axis=0)

    @property
    def numbers(self) -> int:
        """How many numbers the caches keep."""
        return sum(cache.numbers for cache in self._caches)

    def reorder(self, rows: np.ndarray) -> None:
        chosen = paddle.to_tensor(rows)
        for cache in self._caches:
            cache.reorder(chosen)

    @paddle.no_grad()
    def step(self, ids: np.ndarray) -> np.ndarray:
        x = self.model.embed_target(self.direction, paddle.to_tensor(ids), paddle.to_tensor([self._place]))
        for block, cache in zip(self.model.blocks, self._caches):
            x = block(x, cache)
        self._place += 1
        return self.model.predict(self.direction, x)[:, 0].numpy()


class TransformerReader:
    """A Reader over a model in evaluation mode."""

    def __init__(self, model: Transformer):
        self.model = model
        self.text_length, self.grid, self.vocabulary = model.text_length, model.grid, model.vocabulary

    def read(self, direction: str, source: np.ndarray, samples: int = 1) -> Decoder:
        return Decoder(self.model, direction, source, samples)
