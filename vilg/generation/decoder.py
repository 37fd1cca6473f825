"""The target of one direction token by token, each from what attention keeps of those before (attention/cache.py)."""

import numpy as np
import paddle

from vilg.attention.cache import AttentionCache, source_length
from vilg.attention.constant import Constant
from vilg.attention.layout import Layout
from vilg.attention.patterns import TEXT_TO_IMAGE
from vilg.attention.reference import dense_attention
from vilg.model.transformer import Transformer


class _Source:
    """A layer over the source alone, which no target token changes; keeps its keys and values."""

    def __init__(self, layout: Layout):
        length = source_length(layout)
        visible = layout.visible()[:length, :length]
        self._mask = Constant(np.where(visible, 0.0, -np.inf).astype("float32"))
        self.k = self.v = None

    def attend(self, q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
        self.k, self.v = k, v
        return dense_attention(q, k, v, self._mask.tensor())


class Decoder:
    """`samples` continuations of each of P sources, which are read once: `first`, then `step` for each chosen token.

    direction and source as in Transformer: text ids [P, T] or image ids [P, n]. `model` is in evaluation mode.
    """

    @paddle.no_grad()
    def __init__(self, model: Transformer, direction: str, source: paddle.Tensor, samples: int = 1):
        self.model, self.direction, self.samples = model, direction, samples
        x, self._caches = model.embed_source(direction, source), []
        for block, pattern in zip(model.blocks, model.patterns):
            layout = model.layout(direction, pattern)
            kept = _Source(layout)
            x = block(x, kept)
            self._caches.append(AttentionCache(layout, kept.k, kept.v, samples))
        self._last = x[:, -1:]
        self._place = 0

    @paddle.no_grad()
    def first(self) -> paddle.Tensor:
        """Logits of the first code from BOI, [P samples, codes]; in image_to_text the first word is BOT, and given."""
        logits = self.model.image_head(self.model.norm(self._last))[:, 0]
        return logits.repeat_interleave(self.samples, axis=0)

    @property
    def numbers(self) -> int:
        """How many numbers the caches keep."""
        return sum(cache.numbers for cache in self._caches)

    def reorder(self, rows: np.ndarray) -> None:
        """Go on with continuations `rows` [P samples]; row i is one of the source of i."""
        chosen = paddle.to_tensor(rows)
        for cache in self._caches:
            cache.reorder(chosen)

    @paddle.no_grad()
    def step(self, ids: paddle.Tensor) -> paddle.Tensor:
        """The tokens [P samples] at the next place of the target -> logits [P samples, classes] for the one behind."""
        drawing = self.direction == TEXT_TO_IMAGE
        x = (self.model.embed_image if drawing else self.model.embed_text)(ids.unsqueeze(1), self._place)
        for block, cache in zip(self.model.blocks, self._caches):
            x = block(x, cache)
        self._place += 1
        return (self.model.image_head if drawing else self.model.text_head)(self.model.norm(x))[:, 0]
