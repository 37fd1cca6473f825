"""The model: one transformer for text to image and image to text (section 3.1.2 of the paper)."""

import paddle
from paddle import nn

from vilg import config
from vilg.attention.layout import Layout, build
from vilg.attention.patterns import DIRECTIONS, IMAGE_TO_TEXT, TEXT_TO_IMAGE, schedule
from vilg.model.block import Block
from vilg.model.embeddings import ImageEmbedding, TextEmbedding
from vilg.model.fused import LayerNorm
from vilg.model.initialization import normal
from vilg.model.linear import Linear
from vilg.text.sequence import boi_id


class Transformer(nn.Layer):
    """Both directions with the same weights. The direction determines only the order of the parts and the masks.

    vocab_size: entries of the text vocabulary. codebook_size: entries of the image codebook. grid: (h, w) image tokens,
    n = h w. attention: implementation of attention, which affects no weights and results only by rounding.

    Data types: activations have the type of the parameters, fp32 or 16 bits. Inside the operators, the sums of matrix
    products and of attention, softmax and the statistics of LayerNorm are in fp32. The residual stream is in fp32 if
    `settings.fp32_residual_connection`. Logits are rounded to the type of the parameters, and vilg/model/loss.py
    computes with them in fp32.
    """

    def __init__(
        self,
        settings: config.Model,
        vocab_size: int,
        codebook_size: int,
        text_length: int,
        grid: tuple[int, int],
        attention: config.Attention | None = None,
    ):
        super().__init__()
        self.settings, self.vocab_size, self.codebook_size = settings, vocab_size, codebook_size
        self.text_length, self.grid = text_length, (grid[0], grid[1])
        backend = (attention or config.Attention()).backend
        scale = settings.embedding_gradient_scale
        self.embed_text = TextEmbedding(vocab_size, text_length, settings.hidden, scale)
        self.embed_image = ImageEmbedding(codebook_size, grid, settings.hidden, scale)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.LayerList([Block(settings, backend) for _ in range(settings.layers)])
        self.patterns = schedule(settings.layers)
        self.norm = LayerNorm(settings.hidden)
        self.text_head = Linear(settings.hidden, vocab_size, weight_attr=normal())
        self.image_head = Linear(settings.hidden, codebook_size, weight_attr=normal())
        self.trained_directions = list(DIRECTIONS)

    def forward(self, direction: str, text: paddle.Tensor, image: paddle.Tensor) -> paddle.Tensor:
        """Text ids [B, T] and image ids [B, n] -> logits of the target part.

        text_to_image: [B, n, codebook_size], at k the prediction of z_{k+1} (the first one is that of BOI).
        image_to_text: [B, T-1, vocab_size], at k the prediction of text position k+1.
        """
        states = self.hidden_states(direction, text, image)
        if direction == TEXT_TO_IMAGE:
            return self.image_head(states[:, self.text_length - 1 : -1])
        return self.text_head(states[:, -self.text_length : -1])

    def hidden_states(self, direction: str, text: paddle.Tensor, image: paddle.Tensor) -> paddle.Tensor:
        """The normalized states of the last layer, [B, S, hidden], source first."""
        parts = [self.embed_source(direction, text if direction == TEXT_TO_IMAGE else image)]
        parts += [self._as_residual(self.embed_image(image) if direction == TEXT_TO_IMAGE else self.embed_text(text))]
        x = self.dropout(paddle.concat(parts, axis=1))
        for block, pattern in zip(self.blocks, self.patterns):
            x = block(x, self.layout(direction, pattern))
        return self.norm(x)

    def embed_source(self, direction: str, source: paddle.Tensor) -> paddle.Tensor:
        """Text ids [B, T], whose last position becomes BOI, or image ids [B, n] -> [B, T or n, hidden]."""
        if direction == IMAGE_TO_TEXT:
            return self._as_residual(self.embed_image(source))
        boi = paddle.full([source.shape[0], 1], boi_id(self.vocab_size), source.dtype)
        return self._as_residual(self.embed_text(paddle.concat([source[:, :-1], boi], axis=1)))

    def embed_target(self, direction: str, ids: paddle.Tensor, position: paddle.Tensor) -> paddle.Tensor:
        """One target token: ids [B] at position `position` int64 [1] -> [B, 1, hidden]."""
        embed = self.embed_image if direction == TEXT_TO_IMAGE else self.embed_text
        return self._as_residual(embed(ids.unsqueeze(1), position))

    def predict(self, direction: str, states: paddle.Tensor) -> paddle.Tensor:
        """States of the last layer [B, S, hidden] -> logits [B, S, classes] of the next target token."""
        return (self.image_head if direction == TEXT_TO_IMAGE else self.text_head)(self.norm(states))

    def _as_residual(self, embedded: paddle.Tensor) -> paddle.Tensor:
        """Embeddings in the type of the residual stream, to which each block adds."""
        return embedded.astype("float32") if self.settings.fp32_residual_connection else embedded

    def train_only(self, directions: list[str]) -> None:
        """Freeze the output layers of other directions, the only parameters that the directions do not share."""
        self.trained_directions = directions
        for direction, head in {TEXT_TO_IMAGE: self.image_head, IMAGE_TO_TEXT: self.text_head}.items():
            for parameter in head.parameters() if direction not in directions else ():
                parameter.stop_gradient = True

    @property
    def dtype(self) -> paddle.dtype:
        """The type of the parameters."""
        return self.text_head.weight.dtype

    def layout(self, direction: str, pattern: str) -> Layout:
        return build(direction, pattern, self.text_length, self.grid, self.settings.conv_kernel)


def targets(direction: str, text: paddle.Tensor, image: paddle.Tensor, vocab_size: int):
    """(ids, counted) for the logits of `forward`: the ids to predict, and whether each counts in the loss.

    Text-to-image predicts all image tokens. Image-to-text predicts text tokens and EOT; the padding after EOT has ids
    outside the vocabulary and does not count.
    """
    if direction == TEXT_TO_IMAGE:
        return image, paddle.ones_like(image, dtype="bool")
    assert direction == IMAGE_TO_TEXT
    following = text[:, 1:]
    counted = following < vocab_size
    return paddle.where(counted, following, paddle.zeros_like(following)), counted
