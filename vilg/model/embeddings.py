"""Token + position + part."""

import paddle
from paddle import nn

from vilg.model.initial import normal
from vilg.text.sequence import table_size


class Embeddings(nn.Layer):
    """Text ids [B, T] and image ids [B, n] -> their vectors, [B, T, hidden] and [B, n, hidden].

    Text positions are learned, image positions are a learned row plus a learned column, and one vector a part tells
    text from image.
    """

    def __init__(self, vocabulary: int, codes: int, text_length: int, grid: tuple[int, int], hidden: int):
        super().__init__()
        self.grid = grid
        self.words = nn.Embedding(table_size(vocabulary, text_length), hidden, weight_attr=normal())
        self.codes = nn.Embedding(codes, hidden, weight_attr=normal())
        self.text_positions = self.create_parameter([text_length, hidden], attr=normal())
        self.rows = self.create_parameter([grid[0], 1, hidden], attr=normal())
        self.columns = self.create_parameter([1, grid[1], hidden], attr=normal())
        self.text_part = self.create_parameter([hidden], attr=normal())
        self.image_part = self.create_parameter([hidden], attr=normal())

    def text(self, ids: paddle.Tensor) -> paddle.Tensor:
        return self.words(ids) + (self.text_positions + self.text_part)

    def image(self, ids: paddle.Tensor) -> paddle.Tensor:
        places = (self.rows + self.columns).reshape([-1, self.image_part.shape[0]])
        return self.codes(ids) + (places + self.image_part)
