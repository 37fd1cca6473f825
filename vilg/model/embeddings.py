"""Token + position + part, for text and for images."""

import paddle
from paddle import nn

from vilg.model.initial import normal
from vilg.text.sequence import table_size


class TextEmbedding(nn.Layer):
    """Text ids [B, T] -> [B, T, hidden]. Positions are learned, and so is the vector that tells text from image."""

    def __init__(self, vocabulary: int, length: int, hidden: int):
        super().__init__()
        self.words = nn.Embedding(table_size(vocabulary, length), hidden, weight_attr=normal())
        self.positions = self.create_parameter([length, hidden], attr=normal())
        self.part = self.create_parameter([hidden], attr=normal())

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        return self.words(ids) + (self.positions + self.part)


class ImageEmbedding(nn.Layer):
    """Image ids [B, n] -> [B, n, hidden]. A position is a learned row plus a learned column of the grid."""

    def __init__(self, codes: int, grid: tuple[int, int], hidden: int):
        super().__init__()
        self.codes = nn.Embedding(codes, hidden, weight_attr=normal())
        self.rows = self.create_parameter([grid[0], 1, hidden], attr=normal())
        self.columns = self.create_parameter([1, grid[1], hidden], attr=normal())
        self.part = self.create_parameter([hidden], attr=normal())

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        places = (self.rows + self.columns).reshape([-1, self.part.shape[0]])
        return self.codes(ids) + (places + self.part)
