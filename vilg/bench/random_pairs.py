"""Losses on random pairs, for measuring training steps."""

from collections.abc import Callable, Iterator

import numpy as np
import paddle
from paddle import nn

from vilg.attention.patterns import DIRECTIONS
from vilg.model.loss import summed_nll
from vilg.model.transformer import Transformer, targets


def random_losses(model: Transformer, batch: int) -> Callable[[nn.Layer], Iterator[tuple[str, paddle.Tensor]]]:
    """A function for `Engine.micro_step`: the summed loss of each direction over the same `batch` random pairs."""
    rng = np.random.default_rng(0)
    text = paddle.to_tensor(rng.integers(0, model.vocab_size, [batch, model.text_length]))
    image = paddle.to_tensor(rng.integers(0, model.codebook_size, [batch, model.grid[0] * model.grid[1]]))

    def losses(called: nn.Layer) -> Iterator[tuple[str, paddle.Tensor]]:
        for direction in DIRECTIONS:
            yield (
                direction,
                summed_nll(called(direction, text, image), *targets(direction, text, image, model.vocab_size)),
            )

    return losses
