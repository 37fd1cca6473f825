"""Decoding with the trained model in Python: one target token at a time, with caches (attention/cache.py)."""

import numpy as np
import paddle

from vilg.arrays import to_numpy
from vilg.attention.cache import AttentionCache
from vilg.attention.functional import block_sparse_attention
from vilg.attention.layout import Layout
from vilg.generation.decoding_model import unique_sources
from vilg.model.transformer import Transformer


class SourceAttention:
    """Attention of a layer over the source, which does not depend on target tokens. Stores its keys and values.

    k, v: [P, source length, H, D].
    """

    def __init__(self, layout: Layout, backend: str):
        self._layout, self._backend = layout.source(), backend
        self.k: paddle.Tensor
        self.v: paddle.Tensor

    def attend(self, q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
        self.k, self.v = k, v
        return block_sparse_attention(q, k, v, self._layout, self._backend)


def prefill_source(
    model: Transformer, direction: str, source: paddle.Tensor
) -> tuple[paddle.Tensor, list[SourceAttention]]:
    """The hidden state [P, 1, hidden] of the source's last position, and keys and values of all layers."""
    x, attentions = model.embed_source(direction, source), []
    for block, pattern in zip(model.blocks, model.patterns):
        attentions.append(SourceAttention(model.layout(direction, pattern), block.attention.backend))
        x = block(x, attentions[-1])
    return x[:, -1:], attentions


class TransformerDecodingState:
    """The DecodingState of a model in evaluation mode. Each distinct source is encoded once.

    direction and source as in Transformer: text ids [P, T] or image ids [P, n].
    """

    @paddle.no_grad()
    def __init__(self, model: Transformer, direction: str, source: np.ndarray, samples: int = 1):
        self.model, self.direction, self.samples = model, direction, samples
        rows, spread = unique_sources(source)
        last, attentions = prefill_source(model, direction, paddle.to_tensor(rows))
        self._last = spread(last)
        self._caches = [
            AttentionCache(model.layout(direction, pattern), spread(attention.k), spread(attention.v), samples)
            for pattern, attention in zip(model.patterns, attentions)
        ]
        self._place = 0

    @paddle.no_grad()
    def first(self) -> np.ndarray:
        return to_numpy(self._logits(self._last)).repeat(self.samples, axis=0)

    @property
    def cache_elements(self) -> int:
        """Number of elements in the caches."""
        return sum(cache.num_elements for cache in self._caches)

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
        return to_numpy(self._logits(x))

    def _logits(self, states: paddle.Tensor) -> paddle.Tensor:
        """fp32 [B, classes]; what samples from them computes in their type."""
        return self.model.predict(self.direction, states)[:, 0].astype("float32")


class TransformerDecodingModel:
    """The DecodingModel of a model in evaluation mode."""

    def __init__(self, model: Transformer):
        self.model = model
        self.text_length, self.grid, self.vocab_size = model.text_length, model.grid, model.vocab_size

    def prefill(self, direction: str, source: np.ndarray, samples: int = 1) -> TransformerDecodingState:
        return TransformerDecodingState(self.model, direction, source, samples)
