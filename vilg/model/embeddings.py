"""Embeddings of token, position and part, for text and for images."""

import paddle
from paddle import nn

from vilg.model.initialization import normal
from vilg.text.sequence import embedding_size


class TextEmbedding(nn.Layer):
    """Text ids [B, T] -> [B, T, hidden]. Positions and the vector that marks text are learned.

    With `position`, int64 [1]: ids [B, 1] at that position. gradient_scale: see `scale_gradient`.
    """

    def __init__(self, vocab_size: int, length: int, hidden: int, gradient_scale: float = 1.0):
        super().__init__()
        self.gradient_scale = gradient_scale
        self.words = nn.Embedding(embedding_size(vocab_size, length), hidden, weight_attr=normal())
        self.positions = self.create_parameter([length, hidden], attr=normal())
        self.part = self.create_parameter([hidden], attr=normal())

    def forward(self, ids: paddle.Tensor, position: paddle.Tensor | None = None) -> paddle.Tensor:
        positions = self.positions if position is None else paddle.index_select(self.positions, position)
        return scale_gradient(self.words(ids), self.gradient_scale) + (positions + self.part)


class ImageEmbedding(nn.Layer):
    """Image ids [B, n] -> [B, n, hidden]. A position is the sum of a learned row and a learned column of the grid.

    With `position`, int64 [1]: ids [B, 1] at that position in raster order. gradient_scale: see `scale_gradient`.
    """

    def __init__(self, codebook_size: int, grid: tuple[int, int], hidden: int, gradient_scale: float = 1.0):
        super().__init__()
        self.gradient_scale = gradient_scale
        self.codes = nn.Embedding(codebook_size, hidden, weight_attr=normal())
        self.rows = self.create_parameter([grid[0], 1, hidden], attr=normal())
        self.columns = self.create_parameter([1, grid[1], hidden], attr=normal())
        self.part = self.create_parameter([hidden], attr=normal())

    def forward(self, ids: paddle.Tensor, position: paddle.Tensor | None = None) -> paddle.Tensor:
        if position is None:
            positions = (self.rows + self.columns).reshape([-1, self.part.shape[0]])
        else:
            width = self.columns.shape[1]
            rows, columns = self.rows.squeeze(1), self.columns.squeeze(0)
            positions = paddle.index_select(rows, position // width) + paddle.index_select(columns, position % width)
        return scale_gradient(self.codes(ids), self.gradient_scale) + (positions + self.part)


def scale_gradient(x: paddle.Tensor, scale: float) -> paddle.Tensor:
    """x, whose gradient is multiplied by `scale`: x scale + stop_gradient(x) (1 - scale) (GLM-130B, arXiv 2210.02414,
    section 3, after CogView).

    It is computed in another form, whose value is exactly x.
    """
    if scale == 1 or not (paddle.in_dynamic_mode() and paddle.is_grad_enabled()):
        return x
    constant = x.detach()
    return constant + scale * (x - constant)
