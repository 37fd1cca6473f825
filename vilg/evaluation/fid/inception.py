"""Inception v3 (Szegedy et al., arXiv 1512.00567) up to its 2,048 pooled features, in the two versions that FIDs use.

`tensorflow` is the network of the original FID: its average pooling leaves padding out, and its last block pools the
maximum. `torchvision` has the network of the article. Batch normalization is folded into the convolutions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import nn

FEATURES = 2048
SIDE = 299  # of the images


@dataclass(frozen=True)
class Version:
    """counts_padding: whether average pooling divides by nine at the border, too. last_pool: of the last block."""

    counts_padding: bool
    last_pool: str


VERSIONS = {"tensorflow": Version(False, "maximum"), "torchvision": Version(True, "average")}


class Convolution(nn.Layer):
    """Convolution, folded batch normalization, ReLU. kernel: side, or (height, width). Padded to the same size, unless
    `valid`.
    """

    def __init__(self, inputs: int, outputs: int, kernel, stride: int = 1, valid: bool = False):
        super().__init__()
        height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        self.stride, self.padding = stride, 0 if valid else (height // 2, width // 2)
        self.weight = self.create_parameter([outputs, inputs, height, width])
        self.bias = self.create_parameter([outputs], is_bias=True)

    def forward(self, x):
        return F.relu(F.conv2d(x, self.weight, self.bias, self.stride, self.padding))


def tower(inputs: int, *layers: tuple) -> nn.Sequential:
    """Convolutions in a row, each (outputs, kernel) or (outputs, kernel, stride), which is `valid`."""
    convolutions = []
    for outputs, kernel, *stride in layers:
        convolutions.append(Convolution(inputs, outputs, kernel, stride[0] if stride else 1, bool(stride)))
        inputs = outputs
    return nn.Sequential(*convolutions)


class Block(nn.Layer):
    """Towers side by side, whose outputs are concatenated. `pool` is applied before the last tower, or after the others
    if there is no tower left.
    """

    def __init__(self, towers: Sequence[nn.Layer], pool, pooled: nn.Layer | None):
        super().__init__()
        self.towers, self.pool = nn.LayerList(towers), pool
        self.pooled = pooled if pooled is not None else nn.Identity()

    def forward(self, x):
        return paddle.concat([*(one(x) for one in self.towers), self.pooled(self.pool(x))], axis=1)


class Fork(nn.Layer):
    """A tower that ends in two convolutions, 1 x 3 and 3 x 1, side by side."""

    def __init__(self, inputs: int, *layers: tuple):
        super().__init__()
        self.stem = tower(inputs, *layers)
        width = layers[-1][0]
        self.across, self.down = Convolution(width, 384, (1, 3)), Convolution(width, 384, (3, 1))

    def forward(self, x):
        x = self.stem(x)
        return paddle.concat([self.across(x), self.down(x)], axis=1)


class Inception(nn.Layer):
    """Images [B, 3, 299, 299] in about [-1, 1] -> features [B, 2048]."""

    def __init__(self, version: Version):
        super().__init__()

        def average(x):
            return F.avg_pool2d(x, 3, 1, 1, exclusive=not version.counts_padding)

        def halve(x):
            return F.max_pool2d(x, 3, 2)

        last = average if version.last_pool == "average" else lambda x: F.max_pool2d(x, 3, 1, 1)
        self.stem = nn.LayerList(
            [
                Convolution(3, 32, 3, 2, valid=True),
                Convolution(32, 32, 3, valid=True),
                Convolution(32, 64, 3),
                Convolution(64, 80, 1, valid=True),
                Convolution(80, 192, 3, valid=True),
            ]
        )
        blocks = [_fives(192, 32, average), _fives(256, 64, average), _fives(288, 64, average)]
        blocks.append(Block([tower(288, (384, 3, 2)), tower(288, (64, 1), (96, 3), (96, 3, 2))], halve, None))
        blocks += [_sevens(width, average) for width in (128, 160, 160, 192)]
        corner = tower(768, (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2))
        blocks.append(Block([tower(768, (192, 1), (320, 3, 2)), corner], halve, None))
        blocks += [_forks(1280, average), _forks(2048, last)]
        self.blocks = nn.LayerList(blocks)

    def forward(self, x):
        for number, convolution in enumerate(self.stem):
            x = convolution(x)
            if number in (2, 4):
                x = F.max_pool2d(x, 3, 2)
        for block in self.blocks:
            x = block(x)
        return x.mean([2, 3])

    def convolutions(self) -> list[Convolution]:
        """All convolutions, in the order of their definition."""
        return [layer for layer in self.sublayers() if isinstance(layer, Convolution)]


def _fives(inputs: int, pooled: int, pool) -> Block:
    towers = [tower(inputs, (64, 1)), tower(inputs, (48, 1), (64, 5)), tower(inputs, (64, 1), (96, 3), (96, 3))]
    return Block(towers, pool, tower(inputs, (pooled, 1)))


def _sevens(width: int, pool) -> Block:
    across, down = (1, 7), (7, 1)
    towers = [
        tower(768, (192, 1)),
        tower(768, (width, 1), (width, across), (192, down)),
        tower(768, (width, 1), (width, down), (width, across), (width, down), (192, across)),
    ]
    return Block(towers, pool, tower(768, (192, 1)))


def _forks(inputs: int, pool) -> Block:
    towers = [tower(inputs, (320, 1)), Fork(inputs, (384, 1)), Fork(inputs, (448, 1), (384, 3))]
    return Block(towers, pool, tower(inputs, (192, 1)))
